// Decode steps on the CPU: the operations of training one after the other, in a workspace. The
// product is a sum of its own for every element, so that rows do not depend on each other.
#include <algorithm>
#include <variant>
#include <vector>

#include "kernels/backends.h"
#include "kernels/cpu/gsa_decode_kept.h"
#include "kernels/cpu/gsa_view.h"
#include "kernels/cpu/math.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/typed.h"

namespace gsa::kernels::cpu {
namespace {

Tensor piece(Pieces& pieces, DType dtype, Shape shape) {
  const auto count = shape.count();
  void* data = dtype == DType::float64 ? static_cast<void*>(pieces.take<double>(count))
               : dtype == DType::int32 ? static_cast<void*>(pieces.take<int32_t>(count))
                                       : static_cast<void*>(pieces.take<float>(count));
  return {data, dtype, Device::cpu, shape};
}

struct LinearWorkspace {
  LinearWorkspace(Pieces& pieces, const DecodeLinear& args) {
    const int64_t rows = args.input.dim(0);
    const DType dtype = args.input.dtype();
    if (args.norm != DecodeNorm::none) {
      normalized = piece(pieces, dtype, args.input.shape());
      inverse_rms = piece(pieces, dtype, {rows});
    }
    if (args.activation == DecodeActivation::swiglu) {
      product = piece(pieces, dtype, {rows, args.weight.dim(0)});
    }
  }
  Tensor normalized;
  Tensor inverse_rms;
  Tensor product;
};

ConstTensor normalize(Stream& stream, const DecodeLinear& args, const LinearWorkspace& memory) {
  if (args.norm == DecodeNorm::rms_norm) {
    rms_norm_forward(stream, {.input = args.input,
                              .weight = args.norm_weight,
                              .epsilon = args.epsilon,
                              .output = memory.normalized,
                              .inverse_rms = memory.inverse_rms});
    return memory.normalized;
  }
  return args.input;
}

template <typename T>
void multiply(const ConstTensor& input, const ConstTensor& weight, const ConstTensor& residual,
              const Tensor& output) {
  const auto x = rows_of<T>(input);
  const auto w = rows_of<T>(weight);
  const auto before = rows_of<T>(residual);
  const auto y = rows_of<T>(output);
  const int64_t rows = input.dim(0);
  const int64_t columns = input.dim(1);
  parallel_for(weight.dim(0), rows * columns, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t n = 0; n < rows; ++n) {
        const T sum = dot(columns, x[n], w[i]);
        y[n][i] = before ? before[n][i] + sum : sum;
      }
    }
  });
}

// What stands before the recurrent form's step in the workspace.
struct GsaDecodeWorkspace {
  GsaDecodeWorkspace(Pieces& pieces, const GsaDecode& args) {
    const int64_t rows = args.projected.dim(0);
    const int64_t gates = args.heads * args.slots();
    const DType dtype = args.projected.dtype();
    activated = piece(pieces, dtype, {rows, args.projected.dim(1) - gates});
    log_alpha = piece(pieces, dtype, {rows, gates});
    offsets = piece(pieces, DType::int32, {rows + 1});
  }
  Tensor activated;
  Tensor log_alpha;
  Tensor offsets;
};

GsaForward step_of(const GsaDecode& args, const GsaDecodeWorkspace& memory) {
  const int64_t rows = args.projected.dim(0);
  const auto heads = [&](int64_t begin, int64_t count, int64_t dim) {
    return memory.activated.columns(begin, begin + count * dim).reshape({rows, count, dim});
  };
  const int64_t queries = args.query_heads * args.key_dim();
  const int64_t keys = args.heads * args.key_dim();
  return {.q = heads(0, args.query_heads, args.key_dim()),
          .k = heads(queries, args.heads, args.key_dim()),
          .v = heads(queries + keys, args.heads, args.value_dim()),
          .log_alpha = memory.log_alpha.reshape({rows, args.heads, args.slots()}),
          .sequences = {.host = std::span(static_cast<const int32_t*>(memory.offsets.data()),
                                          static_cast<size_t>(rows) + 1),
                        .offsets = memory.offsets},
          .scale = args.scale,
          .initial_key_state = args.key_state,
          .initial_value_state = args.value_state,
          .output = args.output.reshape({rows, args.query_heads, args.value_dim()}),
          .final_key_state = args.key_state,
          .final_value_state = args.value_state};
}

void count_up(const Tensor& offsets) {
  for (int64_t i = 0; i < offsets.count(); ++i) {
    offsets.as<int32_t>()[i] = static_cast<int32_t>(i);
  }
}

}  // namespace

size_t decode_linear_workspace(const DecodeLinear& args) {
  Pieces measure(nullptr);
  const LinearWorkspace unused(measure, args);
  return measure.bytes();
}

void decode_linear(Stream& stream, const DecodeLinear& args, std::byte* workspace) {
  with_real_type(args.input.dtype(), "decode_linear", [&](auto type) {
    using T = decltype(type);
    Pieces pieces(workspace);
    const LinearWorkspace memory(pieces, args);
    const ConstTensor x = normalize(stream, args, memory);
    if (args.activation == DecodeActivation::none) {
      multiply<T>(x, args.weight, args.residual, args.output);
      return;
    }
    multiply<T>(x, args.weight, {}, memory.product);
    swiglu_forward(stream, {.gate_up = memory.product, .output = args.output});
  });
}

size_t gsa_decode_workspace(const GsaDecode& args) {
  if (args.kept) {
    return gsa_decode_kept_workspace(args);
  }
  Pieces measure(nullptr);
  const GsaDecodeWorkspace own(measure, args);
  // The step's own need follows from shapes and from the offsets, which do not exist yet.
  std::vector<int32_t> offsets(static_cast<size_t>(args.projected.dim(0)) + 1);
  GsaDecodeWorkspace shapes = own;
  shapes.offsets = Tensor(offsets.data(), DType::int32, Device::cpu, own.offsets.shape());
  count_up(shapes.offsets);
  return measure.bytes() + gsa_recurrent_forward_workspace(step_of(args, shapes));
}

void gsa_decode(Stream& stream, const GsaDecode& args, std::byte* workspace) {
  if (args.kept) {
    gsa_decode_kept(args, workspace);
    return;
  }
  Pieces pieces(workspace);
  const GsaDecodeWorkspace memory(pieces, args);
  count_up(memory.offsets);
  const int64_t activated = memory.activated.dim(1);
  swish_forward(stream,
                {.input = args.projected.columns(0, activated), .output = memory.activated});
  log_gate_forward(stream, {.input = args.projected.columns(activated, args.projected.dim(1)),
                            .normalizer = args.gate_normalizer,
                            .log_alpha = memory.log_alpha});
  gsa_recurrent_forward(stream, step_of(args, memory), workspace + pieces.bytes());
  swish_forward(stream, {.input = args.output, .output = args.output});
}

namespace {

struct WorkspaceOf {
  size_t operator()(const DecodeLinear& linear) const { return decode_linear_workspace(linear); }
  size_t operator()(const GsaDecode& gsa) const { return gsa_decode_workspace(gsa); }
};

struct Run {
  Stream& stream;
  std::byte* workspace;
  void operator()(const DecodeLinear& linear) const { decode_linear(stream, linear, workspace); }
  void operator()(const GsaDecode& gsa) const { gsa_decode(stream, gsa, workspace); }
};

}  // namespace

size_t decode_step_workspace(const DecodeStep& args) {
  size_t most = 0;
  for (const auto& operation : args.operations) {
    most = std::max(most, std::visit(WorkspaceOf(), operation));
  }
  return most;
}

void count_step(Stream& /*stream*/, const CountStep& args) {
  ++*args.step.as<int32_t>();
}

void decode_step(Stream& stream, const DecodeStep& args, std::byte* workspace) {
  for (const auto& operation : args.operations) {
    std::visit(Run{stream, workspace}, operation);
  }
}

}  // namespace gsa::kernels::cpu
