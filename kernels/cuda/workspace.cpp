// The workspaces of the CUDA operations: plain C++, compiled in every build, so that `gsa plan` can
// say on any machine what a GPU run needs.
#include "kernels/cuda/workspace.h"

#include "kernels/backends.h"
#include "kernels/cuda/alignment.h"
#include "kernels/cuda/decode_workspace.h"
#include "kernels/cuda/gsa_workspace.h"
#include "kernels/gsa_projected.h"

namespace gsa::kernels::cuda {
namespace {

// The partial sums of a norm's weight gradient, if there is a weight.
size_t weight_gradient_bytes(const ConstTensor& input, const ConstTensor& grad_weight) {
  if (!grad_weight) {
    return 0;
  }
  const int64_t blocks = norm_blocks(input.dim(0), input.dim(1));
  return size_t(blocks * input.dim(1)) * sizeof(float);
}

// Whether tiles of `columns` and of `depth` are whole accesses of bfloat16.
bool whole_accesses(DType dtype, int64_t columns, int64_t depth) {
  constexpr int64_t together = access_bytes / 2;
  return dtype == DType::bfloat16 && columns % together == 0 && depth > 0 && depth % together == 0;
}

}  // namespace

size_t embedding_backward_workspace(const EmbeddingBackward& args) {
  return EmbeddingWorkspace(args.tokens.dim(0), args.grad_table.dim(1)).bytes;
}
size_t rms_norm_backward_workspace(const RmsNormBackward& args) {
  return weight_gradient_bytes(args.input, args.grad_weight);
}
size_t swish_rms_norm_backward_workspace(const SwishRmsNormBackward& args) {
  return weight_gradient_bytes(args.input, args.grad_weight);
}
size_t matmul_workspace(const Matmul& /*args*/) {
  return matmul_workspace_bytes;
}
bool computes_by_tiles(const SwigluProductForward& args) {
  const int64_t columns = args.gate_up.dim(1) / 2;
  return whole_accesses(args.input.dtype(), columns, args.input.dim(1)) &&
         are_aligned(args.input, args.weight, args.gate_up.columns(0, columns),
                     args.gate_up.columns(columns, 2 * columns), args.output);
}
bool computes_by_tiles(const SwigluProductBackward& args) {
  const int64_t columns = args.output.dim(1);
  const auto halves_aligned = [&](const ConstTensor& both) {
    return are_aligned(both.columns(0, columns), both.columns(columns, 2 * columns));
  };
  return whole_accesses(args.output.dtype(), columns, args.weight.dim(0)) &&
         are_aligned(args.grad_product, args.weight, args.output) && halves_aligned(args.gate_up) &&
         halves_aligned(args.grad_gate_up);
}
size_t swiglu_product_forward_workspace(const SwigluProductForward& args) {
  return computes_by_tiles(args) ? tile_workspace_bytes : matmul_workspace(args.product());
}
size_t swiglu_product_backward_workspace(const SwigluProductBackward& args) {
  return computes_by_tiles(args) ? tile_workspace_bytes : matmul_workspace(args.product());
}
size_t gsa_chunked_forward_workspace(const GsaForward& args) {
  return gsa_uses_tensor_cores(args) ? GsaForwardWorkspace(args).bytes
                                     : gsa_recurrent_forward_workspace(args);
}
size_t gsa_chunked_backward_workspace(const GsaBackward& args) {
  return gsa_uses_tensor_cores(args.forward) ? GsaBackwardWorkspace(args).bytes
                                             : gsa_recurrent_backward_workspace(args);
}
size_t gsa_recurrent_forward_workspace(const GsaForward& args) {
  return GsaRecurrentWorkspace(args).bytes + projected_workspace(args);
}
size_t gsa_recurrent_backward_workspace(const GsaBackward& args) {
  return GsaRecurrentBackwardWorkspace(args.forward).bytes + projected_workspace(args);
}
size_t sum_losses_workspace(const SumLosses& /*args*/) {
  return 0;
}
size_t squared_norm_workspace(const SquaredNorm& /*args*/) {
  return squared_norm_blocks * sizeof(double);
}
size_t decode_linear_workspace(const DecodeLinear& args) {
  if (args.input.dim(0) <= decode_few_rows) {
    return 0;
  }
  return DecodeWorkspace(args).bytes;
}
size_t gsa_decode_workspace(const GsaDecode& /*args*/) {
  return 0;
}
size_t decode_step_workspace(const DecodeStep& args) {
  size_t most = 0;
  for (const auto& operation : args.operations) {
    if (const auto* gsa = std::get_if<GsaDecode>(&operation)) {
      const int64_t parts = gsa->projected.dim(0) * gsa->query_heads * gsa->key_dim() / decode_part;
      most = std::max({most, gsa_decode_workspace(*gsa), DecodeStepWorkspace(parts).bytes});
    } else {
      most = std::max({most, decode_linear_workspace(std::get<DecodeLinear>(operation)),
                       DecodeStepWorkspace(0).bytes});
    }
  }
  return most;
}
size_t sample_tokens_workspace(const SampleTokens& args) {
  return args.options.temperature == 0 ? 0 : size_t(args.logits.count()) * sizeof(uint32_t);
}
size_t gsa_chunked_saved_bytes(const GsaForward& args) {
  return gsa_uses_tensor_cores(args) ? GsaSaved(GsaSizes(args)).bytes : 0;
}

}  // namespace gsa::kernels::cuda
