#include "trainer/model/gsa_mixer.h"

#include "kernels/activation.h"
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

Tensor GsaMixer::heads_view(const Tensor& qkv, int64_t begin, int64_t heads) const {
  return qkv.columns(begin, begin + heads * head_dim_).reshape({qkv.dim(0), heads, head_dim_});
}

GsaMixer::Activated GsaMixer::activate(Pass& pass, Tape::Scratch& scratch,
                                       ConstTensor projected) const {
  const int64_t tokens = pass.tokens();
  const Activated activated{
      .qkv = scratch.tensor(pass.dtype, {tokens, activated_columns()}),
      .log_alpha = scratch.tensor(pass.statistics(), {tokens, gate_columns()})};
  kernels::swish_forward(
      pass.stream, {.input = projected.columns(0, activated_columns()), .output = activated.qkv});
  kernels::log_gate_forward(pass.stream,
                            {.input = projected.columns(activated_columns(), projected_columns()),
                             .normalizer = gate_normalizer_,
                             .log_alpha = activated.log_alpha});
  return activated;
}

kernels::GsaForward GsaMixer::op_arguments(Pass& pass, const Activated& inputs) const {
  kernels::GsaForward args{.q = heads_view(inputs.qkv, 0, query_heads_),
                           .k = heads_view(inputs.qkv, query_columns(), heads_),
                           .v = heads_view(inputs.qkv, query_columns() + key_columns(), heads_),
                           .log_alpha = inputs.log_alpha.reshape({pass.tokens(), heads_, slots_}),
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

void GsaMixer::forward(Pass& pass, ConstTensor input, Tensor output) {
  Tape& tape = pass.tape;
  const int64_t tokens = pass.tokens();
  const Tensor projected = tape.allocate(pass.dtype, {tokens, projected_columns()});
  const Tensor o = tape.allocate(pass.dtype, {tokens, query_columns()});
  const Tensor inverse_rms = tape.allocate(pass.statistics(), {tokens});
  linear_forward(pass, input, qkvf_proj_, projected);

  Tensor saved;
  {
    Tape::Scratch scratch(tape);
    kernels::GsaForward op = op_arguments(pass, activate(pass, scratch, projected));
    const auto bytes = static_cast<int64_t>(kernels::gsa_chunked_saved_bytes(op));
    if (bytes > 0 && pass.states == nullptr) {
      saved = tape.allocate(DType::byte, {bytes});
    }
    op.saved = saved;
    op.output = o.reshape({tokens, query_heads_, head_dim_});
    run_op(pass, op);
  }
  Tape::Scratch scratch(tape);
  const Tensor normalized = scratch.tensor(pass.dtype, {tokens, query_columns()});
  kernels::swish_rms_norm_forward(pass.stream, {.input = o,
                                                .weight = g_norm_.weight(),
                                                .epsilon = norm_eps_,
                                                .output = normalized,
                                                .inverse_rms = inverse_rms});
  linear_forward(pass, normalized, o_proj_, output);
  for (const Tensor& tensor : {projected, o, inverse_rms, saved}) {
    tape.push(tensor);
  }
}

void GsaMixer::backward(Pass& pass, const InputAgain& input, ConstTensor grad_output,
                        Tensor grad_input) {
  const Tensor saved = pass.tape.pop();
  const Tensor inverse_rms = pass.tape.pop();
  const Tensor o = pass.tape.pop();
  const Tensor projected = pass.tape.pop();
  const int64_t tokens = pass.tokens();

  const Tensor grad_o = o;
  {
    Tape::Scratch inner(pass.tape);
    const Tensor normalized = inner.tensor(pass.dtype, {tokens, query_columns()});
    linear_backward_input(pass, o_proj_, grad_output, normalized);
    // The gradient of o takes its place, and what the product was of that of the gradient.
    kernels::swish_rms_norm_backward(pass.stream, {.input = o,
                                                   .weight = g_norm_.weight(),
                                                   .inverse_rms = inverse_rms,
                                                   .grad_output = normalized,
                                                   .output = normalized,
                                                   .grad_input = grad_o,
                                                   .grad_weight = g_norm_.gradient()});
    linear_backward_weight(pass, normalized, o_proj_, grad_output);
  }
  Tape::Scratch scratch(pass.tape);
  const Tensor grad_projected = scratch.tensor(pass.dtype, {tokens, projected_columns()});
  {
    Tape::Scratch inner(pass.tape);
    const Activated inputs = activate(pass, inner, projected);
    backward_op(pass, inputs, projected, saved, grad_o, grad_projected);
  }
  linear_backward_input(pass, qkvf_proj_, grad_projected, grad_input);
  linear_backward_weight(pass, input(), qkvf_proj_, grad_projected);
}

void GsaMixer::decode(Pass& pass, const NormBefore& norm, Tensor stream) {
  const MixerState& state = (*pass.states)[static_cast<size_t>(layer_)];
  const int64_t sequences = stream.dim(0);
  Tape::Scratch scratch(pass.tape);
  const Tensor projected = scratch.tensor(pass.dtype, {sequences, projected_columns()});
  const Tensor o = scratch.tensor(pass.dtype, {sequences, query_columns()});
  linear_decode(pass, stream, norm, qkvf_proj_, kernels::DecodeActivation::none, projected);
  kernels::gsa_decode(pass.stream, {.projected = projected,
                                    .query_heads = query_heads_,
                                    .heads = heads_,
                                    .gate_normalizer = gate_normalizer_,
                                    .key_state = state.tensors[0],
                                    .value_state = state.tensors[1],
                                    .output = o});
  linear_decode_onto(pass, o,
                     {.kind = kernels::DecodeNorm::rms_norm,
                      .weight = g_norm_.weight(),
                      .epsilon = norm_eps_},
                     o_proj_, stream);
}

void GsaMixer::backward_op(Pass& pass, const Activated& inputs, ConstTensor projected,
                           const Tensor& saved, const Tensor& grad_o,
                           const Tensor& grad_projected) const {
  const int64_t tokens = pass.tokens();
  Tape::Scratch scratch(pass.tape);
  const Tensor grad_log_alpha = scratch.tensor(pass.statistics(), {tokens, heads_, slots_});
  const Tensor grad_qkv = grad_projected.columns(0, activated_columns());
  kernels::GsaBackward op{.forward = op_arguments(pass, inputs),
                          .grad_output = grad_o.reshape({tokens, query_heads_, head_dim_}),
                          .grad_q = heads_view(grad_qkv, 0, query_heads_),
                          .grad_k = heads_view(grad_qkv, query_columns(), heads_),
                          .grad_v = heads_view(grad_qkv, query_columns() + key_columns(), heads_),
                          .grad_log_alpha = grad_log_alpha};
  op.forward.saved = saved;
  kernels::gsa_chunked_backward(pass.stream, op);

  kernels::swish_backward(pass.stream, {.input = projected.columns(0, activated_columns()),
                                        .grad_output = grad_qkv,
                                        .grad_input = grad_qkv});
  kernels::log_gate_backward(
      pass.stream,
      {.input = projected.columns(activated_columns(), projected_columns()),
       .grad_log_alpha = grad_log_alpha.reshape({tokens, gate_columns()}),
       .normalizer = gate_normalizer_,
       .grad_input = grad_projected.columns(activated_columns(), projected_columns())});
}

}  // namespace gsa
