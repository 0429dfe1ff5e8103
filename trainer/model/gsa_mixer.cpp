#include "trainer/model/gsa_mixer.h"

#include "kernels/gsa.h"
#include "kernels/rms_norm.h"
#include "trainer/model/linear.h"

namespace gsa {

GsaMixer::GsaMixer(const ModelConfig& config, int layer, const std::string& prefix,
                   ParameterStore& parameters)
    : layer_(layer),
      hidden_(config.hidden),
      query_heads_(config.heads),
      heads_(config.resolved_kv_heads()),
      head_dim_(config.hidden / config.heads),
      slots_(config.slots),
      gate_normalizer_(config.gate_logit_normalizer),
      norm_eps_(config.g_norm_eps) {
  const auto matrix = [&](const char* name, int64_t rows, int64_t columns) {
    return parameters.add(prefix + name + ".weight", {rows, columns}, Initialization::normal);
  };
  const Parameter q = matrix("q_proj", query_columns(), hidden_);
  matrix("k_proj", key_columns(), hidden_);
  matrix("v_proj", key_columns(), hidden_);
  const Parameter f = matrix("f_proj", gate_columns(), hidden_);
  qkvf_proj_ = parameters.fuse(q, f);
  if (config.elementwise_affine) {
    g_norm_ = parameters.add(prefix + "g_norm.weight", {hidden_}, Initialization::ones);
  }
  o_proj_ = matrix("o_proj", hidden_, query_columns());
}

std::vector<Shape> GsaMixer::state_shapes() const {
  return {{query_heads_, head_dim_, slots_}, {query_heads_, slots_, head_dim_}};
}

Tensor GsaMixer::heads_view(const Tensor& rows, int64_t begin, int64_t heads, int64_t width) const {
  return rows.columns(begin, begin + heads * width).reshape({rows.dim(0), heads, width});
}

GsaMixer::Columns GsaMixer::columns_of(const Tensor& rows) const {
  return {.q = heads_view(rows, 0, query_heads_, head_dim_),
          .k = heads_view(rows, query_columns(), heads_, head_dim_),
          .v = heads_view(rows, query_columns() + key_columns(), heads_, head_dim_),
          .gate_logits = heads_view(rows, query_columns() + 2 * key_columns(), heads_, slots_)};
}

kernels::GsaForward GsaMixer::op_arguments(Pass& pass, const Tensor& projected) const {
  const Columns columns = columns_of(projected);
  kernels::GsaForward args{.q = columns.q,
                           .k = columns.k,
                           .v = columns.v,
                           .gate_logits = columns.gate_logits,
                           .gate_normalizer = gate_normalizer_,
                           .sequences = pass.sequences};
  if (pass.states != nullptr) {
    const MixerState& state = (*pass.states)[static_cast<size_t>(layer_)];
    args.initial_key_state = args.final_key_state = state.tensors[0];
    args.initial_value_state = args.final_value_state = state.tensors[1];
  }
  return args;
}

void GsaMixer::run_op(Pass& pass, const kernels::GsaForward& args) const {
  if (pass.form == Form::chunked) {
    kernels::gsa_chunked_forward(pass.stream, args);
  } else {
    kernels::gsa_recurrent_forward(pass.stream, args);
  }
}

void GsaMixer::forward(Pass& pass, ConstTensor input, ConstTensor stream, Tensor output) {
  Tape& tape = pass.tape;
  const int64_t tokens = pass.tokens();
  const Tensor projected = tape.allocate(pass.dtype, {tokens, projected_columns()});
  const Tensor o = tape.allocate(pass.dtype, {tokens, query_columns()});
  const Tensor inverse_rms = tape.allocate(pass.statistics(), {tokens});
  linear_forward(pass, input, qkvf_proj_, projected);

  Tensor saved;
  kernels::GsaForward op = op_arguments(pass, projected);
  const auto bytes = static_cast<int64_t>(kernels::gsa_chunked_saved_bytes(op));
  if (bytes > 0 && pass.states == nullptr) {
    saved = tape.allocate(DType::byte, {bytes});
  }
  op.saved = saved;
  op.output = o.reshape({tokens, query_heads_, head_dim_});
  run_op(pass, op);
  Tape::Scratch scratch(tape);
  const Tensor normalized = pass.norm_output(scratch, {tokens, query_columns()});
  kernels::swish_rms_norm_forward(pass.stream, {.input = o,
                                                .weight = g_norm_.weight(),
                                                .epsilon = norm_eps_,
                                                .output = normalized,
                                                .inverse_rms = inverse_rms});
  linear_forward_onto(pass, normalized, o_proj_, stream, output);
  for (const Tensor& tensor : {projected, o, inverse_rms, saved}) {
    tape.push(tensor);
  }
  pass.push_norm_output(normalized);
}

void GsaMixer::backward(Pass& pass, const InputAgain& input, ConstTensor grad_output,
                        Tensor grad_input) {
  const Tensor normalized = pass.tape.pop();
  const Tensor saved = pass.tape.pop();
  const Tensor inverse_rms = pass.tape.pop();
  const Tensor o = pass.tape.pop();
  const Tensor projected = pass.tape.pop();
  const int64_t tokens = pass.tokens();

  const Tensor grad_o = o;
  {
    Tape::Scratch inner(pass.tape);
    const Tensor grad_normalized = inner.tensor(pass.dtype, {tokens, query_columns()});
    linear_backward_input(pass, o_proj_, grad_output, grad_normalized);
    // The gradient of o takes its place; what the product was of that of the gradient, if it was
    // not kept.
    const Tensor again = normalized ? Tensor() : grad_normalized;
    kernels::swish_rms_norm_backward(pass.stream, {.input = o,
                                                   .weight = g_norm_.weight(),
                                                   .inverse_rms = inverse_rms,
                                                   .grad_output = grad_normalized,
                                                   .output = again,
                                                   .grad_input = grad_o,
                                                   .grad_weight = g_norm_.gradient()});
    linear_backward_weight(pass, normalized ? normalized : again, o_proj_, grad_output);
  }
  Tape::Scratch scratch(pass.tape);
  const Tensor grad_projected = scratch.tensor(pass.dtype, {tokens, projected_columns()});
  backward_op(pass, projected, saved, grad_o, grad_projected);
  linear_backward_input(pass, qkvf_proj_, grad_projected, grad_input);
  linear_backward_weight(pass, input(), qkvf_proj_, grad_projected);
}

void GsaMixer::decode(Pass& pass, kernels::DecodeStep& step, const NormBefore& norm,
                      Tensor stream) {
  const MixerState& state = (*pass.states)[static_cast<size_t>(layer_)];
  const int64_t sequences = stream.dim(0);
  const Tensor projected = pass.tape.allocate(pass.dtype, {sequences, projected_columns()});
  const Tensor o = pass.tape.allocate(pass.dtype, {sequences, query_columns()});
  linear_decode(step, stream, norm, qkvf_proj_, kernels::DecodeActivation::none, projected);
  step.operations.emplace_back(kernels::GsaDecode{.projected = projected,
                                                  .query_heads = query_heads_,
                                                  .heads = heads_,
                                                  .gate_normalizer = gate_normalizer_,
                                                  .key_state = state.tensors[0],
                                                  .value_state = state.tensors[1],
                                                  .kept = state.kept,
                                                  .output = o});
  linear_decode_onto(
      step, o,
      {.kind = kernels::DecodeNorm::rms_norm, .weight = g_norm_.weight(), .epsilon = norm_eps_},
      o_proj_, stream);
}

void GsaMixer::backward_op(Pass& pass, const Tensor& projected, const Tensor& saved,
                           const Tensor& grad_o, const Tensor& grad_projected) const {
  const Columns gradients = columns_of(grad_projected);
  kernels::GsaBackward op{.forward = op_arguments(pass, projected),
                          .grad_output = grad_o.reshape({pass.tokens(), query_heads_, head_dim_}),
                          .grad_q = gradients.q,
                          .grad_k = gradients.k,
                          .grad_v = gradients.v,
                          .grad_gate_logits = gradients.gate_logits};
  op.forward.saved = saved;
  kernels::gsa_chunked_backward(pass.stream, op);
}

}  // namespace gsa
