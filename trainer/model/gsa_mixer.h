// The gated slot attention layer (arXiv 2409.07146) around the op of kernels/gsa.h:
//
//   q, k, v = swish(x Wq^T), swish(x Wk^T), swish(x Wv^T);  log alpha = logsigmoid(x Wf^T) / tau
//   o = gsa(q, k, v, log alpha);  y = RMSNorm_D(swish(o)) Wo^T
//
// The four products are one, over the rows of Wq, Wk, Wv, Wf, and the op takes its output as it is
// and activates it itself. Kept for backward: that product's output, o, the norm's statistics, what
// the op saves, and with Pass::keeps_norms the normalized swish(o), which else is computed again.
#pragma once

#include "trainer/model/mixer.h"

namespace gsa {

class GsaMixer final : public TokenMixer {
 public:
  GsaMixer(const ModelConfig& config, int layer, const std::string& prefix,
           ParameterStore& parameters);

  void forward(Pass& pass, ConstTensor input, ConstTensor stream, Tensor output) override;
  void backward(Pass& pass, const InputAgain& input, ConstTensor grad_output,
                Tensor grad_input) override;
  void decode(Pass& pass, kernels::DecodeStep& step, const NormBefore& norm,
              Tensor stream) override;
  std::vector<Shape> state_shapes() const override;
  Shape kept_shape(int64_t sequences, int64_t period) const override {
    return kernels::KeptTokens::shape(sequences, heads_, period, head_dim_, head_dim_, slots_);
  }

 private:
  // Columns of the fused product.
  int64_t query_columns() const { return query_heads_ * head_dim_; }
  int64_t key_columns() const { return heads_ * head_dim_; }
  int64_t gate_columns() const { return heads_ * slots_; }
  int64_t projected_columns() const { return query_columns() + 2 * key_columns() + gate_columns(); }

  // The fused product's columns, or its gradient's, by head.
  struct Columns {
    Tensor q;
    Tensor k;
    Tensor v;
    Tensor gate_logits;
  };
  Columns columns_of(const Tensor& rows) const;
  Tensor heads_view(const Tensor& rows, int64_t begin, int64_t heads, int64_t width) const;
  kernels::GsaForward op_arguments(Pass& pass, const Tensor& projected) const;
  void run_op(Pass& pass, const kernels::GsaForward& args) const;
  // From the gradient of o to that of the product's output.
  void backward_op(Pass& pass, const Tensor& projected, const Tensor& saved, const Tensor& grad_o,
                   const Tensor& grad_projected) const;

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
