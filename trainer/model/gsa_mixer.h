// The gated slot attention layer (arXiv 2409.07146) around the op of kernels/gsa.h:
//
//   q, k, v = swish(x Wq^T), swish(x Wk^T), swish(x Wv^T);  log alpha = logsigmoid(x Wf^T) / tau
//   o = gsa(q, k, v, log alpha);  y = RMSNorm_D(swish(o)) Wo^T
//
// The four products are one, over the rows of Wq, Wk, Wv, Wf. Kept for backward: that product's
// output (before activations), o, the norm's statistics, and what the op saves. Computed again in
// backward: the activations, and the normalized swish(o).
#pragma once

#include "trainer/model/mixer.h"

namespace gsa {

class GsaMixer final : public TokenMixer {
 public:
  GsaMixer(const ModelConfig& config, int layer, const std::string& prefix,
           ParameterStore& parameters);

  void forward(Pass& pass, ConstTensor input, Tensor output) override;
  void backward(Pass& pass, const InputAgain& input, ConstTensor grad_output,
                Tensor grad_input) override;
  void decode(Pass& pass, const NormBefore& norm, Tensor stream) override;
  std::vector<Shape> state_shapes() const override;

 private:
  // Columns of the fused product.
  int64_t query_columns() const { return query_heads_ * head_dim_; }
  int64_t key_columns() const { return heads_ * head_dim_; }
  int64_t gate_columns() const { return heads_ * slots_; }
  int64_t activated_columns() const { return query_columns() + 2 * key_columns(); }
  int64_t projected_columns() const { return activated_columns() + gate_columns(); }

  struct Activated {
    Tensor qkv;        // [N, activated_columns]
    Tensor log_alpha;  // [N, gate_columns]
  };
  Activated activate(Pass& pass, Tape::Scratch& scratch, ConstTensor projected) const;
  // The op's arguments over activated columns (or over their gradients: the same layout).
  kernels::GsaForward op_arguments(Pass& pass, const Activated& inputs) const;
  Tensor heads_view(const Tensor& qkv, int64_t begin, int64_t heads) const;
  void run_op(Pass& pass, const kernels::GsaForward& args) const;
  // Gradients of the activated values to gradients of the product's output.
  void backward_op(Pass& pass, const Activated& inputs, ConstTensor projected, const Tensor& saved,
                   const Tensor& grad_o, const Tensor& grad_projected) const;

  int layer_;
  int64_t hidden_;
  int64_t query_heads_;
  int64_t heads_;
  int64_t head_dim_;
  int64_t slots_;
  double gate_normalizer_;
  double norm_eps_;
  Parameter qkvf_proj_;  // Wq, Wk, Wv, Wf
  Parameter g_norm_;
  Parameter o_proj_;
};

}  // namespace gsa
