#include "trainer/model/block.h"

#include "kernels/rms_norm.h"

namespace gsa {
namespace {

std::string layer_prefix(int layer) {
  return "model.layers." + std::to_string(layer) + ".";
}

}  // namespace

PreNorm::PreNorm(const ModelConfig& config, const std::string& name, ParameterStore& parameters)
    : weight_(parameters.add(name + ".weight", {config.hidden}, Initialization::ones)),
      epsilon_(config.norm_eps) {}

void PreNorm::forward(Pass& pass, ResidualStream& stream, Tensor sum, Tensor output,
                      Tensor inverse_rms) const {
  kernels::RmsNormForward args{.input = stream.sum,
                               .weight = weight_.weight(),
                               .epsilon = epsilon_,
                               .output = output,
                               .inverse_rms = inverse_rms};
  if (stream.has_pending) {
    args.residual = stream.pending;
    args.sum = sum;
    stream.sum = sum;
    stream.has_pending = false;
  }
  kernels::rms_norm_forward(pass.stream, args);
}

void PreNorm::backward(Pass& pass, ConstTensor sum, ConstTensor inverse_rms,
                       ConstTensor grad_output, ConstTensor grad_stream, Tensor output,
                       Tensor grad_sum) const {
  kernels::rms_norm_backward(pass.stream, {.input = sum,
                                           .weight = weight_.weight(),
                                           .inverse_rms = inverse_rms,
                                           .grad_output = grad_output,
                                           .grad_residual = grad_stream,
                                           .output = output,
                                           .grad_input = grad_sum,
                                           .grad_weight = weight_.gradient()});
}

NormBefore PreNorm::before_product() const {
  return {.kind = kernels::DecodeNorm::rms_norm, .weight = weight_.weight(), .epsilon = epsilon_};
}

Block::Block(const ModelConfig& config, int layer, ParameterStore& parameters)
    : attn_norm_(config, layer_prefix(layer) + "attn_norm", parameters),
      mixer_(make_mixer(config, layer, layer_prefix(layer) + "attn.", parameters)),
      mlp_norm_(config, layer_prefix(layer) + "mlp_norm", parameters),
      glu_(config, layer_prefix(layer) + "mlp.", parameters) {}

void Block::forward(Pass& pass, ResidualStream& stream, Keep keep) {
  Tape& tape = pass.tape;
  tape.begin_frame();
  const Shape shape = stream.sum.shape();
  Tensor sum = stream.has_pending && keep != Keep::nothing ? tape.allocate(pass.dtype, shape)
               : stream.has_pending                        ? stream.transient
                                                           : stream.sum;
  if (keep == Keep::everything) {
    run(pass, stream, sum, keep);
    return;
  }
  tape.begin_frame();
  run(pass, stream, sum, keep);
  tape.end_frame();
  if (keep == Keep::input) {
    tape.push(sum);
  } else {
    tape.end_frame();
  }
}

void Block::run(Pass& pass, ResidualStream& stream, Tensor first_sum, Keep keep) {
  Tape& tape = pass.tape;
  const Shape shape = stream.sum.shape();
  Tape::Scratch scratch(tape);
  const Tensor normalized = scratch.tensor(pass.dtype, shape);

  const Tensor first_rms = tape.allocate(pass.statistics(), {pass.tokens()});
  attn_norm_.forward(pass, stream, first_sum, normalized, first_rms);
  mixer_->forward(pass, normalized, stream.pending);
  stream.has_pending = true;
  tape.push(first_sum);
  tape.push(first_rms);

  if (keep == Keep::everything) {
    tape.begin_frame();  // the channel mixer's, which goes back first
  }
  const Tensor second_sum =
      keep == Keep::everything ? tape.allocate(pass.dtype, shape) : stream.transient;
  const Tensor second_rms = tape.allocate(pass.statistics(), {pass.tokens()});
  mlp_norm_.forward(pass, stream, second_sum, normalized, second_rms);
  glu_.forward(pass, normalized, stream.pending);
  stream.has_pending = true;
  tape.push(second_sum);
  tape.push(second_rms);
}

void Block::decode(Pass& pass, kernels::DecodeStep& step, Tensor stream) {
  mixer_->decode(pass, step, attn_norm_.before_product(), stream);
  glu_.decode(pass, step, mlp_norm_.before_product(), stream);
}

template <typename Layer>
void Block::backward_layer(Pass& pass, const PreNorm& norm, Layer& layer, Tensor grad_stream) {
  const Tensor rms = pass.tape.pop();
  const Tensor sum = pass.tape.pop();
  Tape::Scratch scratch(pass.tape);
  const Tensor grad_normalized = scratch.tensor(pass.dtype, sum.shape());
  const auto norm_backward = [&] {
    norm.backward(pass, sum, rms, grad_normalized, grad_stream, grad_normalized, grad_stream);
    return grad_normalized;  // now holds the norm's output
  };
  layer.backward(pass, norm_backward, grad_stream, grad_normalized);
}

void Block::backward(Pass& pass, Tensor grad_stream, Tensor spare, Keep kept) {
  if (kept == Keep::input) {
    const Tensor sum = pass.tape.pop();
    ResidualStream stream{.sum = sum, .pending = spare, .transient = {}};
    pass.tape.begin_frame();
    run(pass, stream, sum, Keep::everything);
  }
  backward_layer(pass, mlp_norm_, glu_, grad_stream);
  pass.tape.end_frame();
  backward_layer(pass, attn_norm_, *mixer_, grad_stream);
  if (kept == Keep::input) {
    pass.tape.end_frame();
  }
  pass.tape.end_frame();
}

}  // namespace gsa
