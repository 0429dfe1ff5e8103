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

void PreNorm::forward(Pass& pass, ConstTensor stream, Tensor output, Tensor inverse_rms) const {
  kernels::rms_norm_forward(pass.stream, {.input = stream,
                                          .weight = weight_.weight(),
                                          .epsilon = epsilon_,
                                          .output = output,
                                          .inverse_rms = inverse_rms});
}

void PreNorm::backward(Pass& pass, ConstTensor stream, ConstTensor inverse_rms,
                       ConstTensor grad_output, ConstTensor grad_stream, Tensor output,
                       Tensor grad_input) const {
  kernels::rms_norm_backward(pass.stream, {.input = stream,
                                           .weight = weight_.weight(),
                                           .inverse_rms = inverse_rms,
                                           .grad_output = grad_output,
                                           .grad_residual = grad_stream,
                                           .output = output,
                                           .grad_input = grad_input,
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

void Block::forward(Pass& pass, Tensor input, Tensor output, Keep keep) {
  Tape& tape = pass.tape;
  pass.keeps_norms = keep == Keep::everything;
  if (keep == Keep::everything || keep == Keep::norm_inputs) {
    run(pass, input, tape.allocate(pass.dtype, input.shape()), output);
    return;
  }
  tape.begin_frame();
  run(pass, input, output, output);
  tape.end_frame();  // of the channel mixer
  tape.end_frame();
  if (keep == Keep::input) {
    tape.push(input);
  }
}

void Block::run(Pass& pass, Tensor input, Tensor middle, Tensor output) {
  Tape& tape = pass.tape;
  run_layer(pass, attn_norm_, *mixer_, input, middle);
  tape.begin_frame();  // the channel mixer's, which goes back first
  run_layer(pass, mlp_norm_, glu_, middle, output);
}

template <typename Layer>
void Block::run_layer(Pass& pass, const PreNorm& norm, Layer& layer, Tensor stream, Tensor output) {
  Tape::Scratch scratch(pass.tape);
  const Tensor normalized = pass.norm_output(scratch, stream.shape());
  const Tensor rms = pass.tape.allocate(pass.statistics(), {pass.tokens()});
  norm.forward(pass, stream, normalized, rms);
  layer.forward(pass, normalized, stream, output);
  pass.tape.push(stream);
  pass.tape.push(rms);
  pass.push_norm_output(normalized);
}

void Block::decode(Pass& pass, kernels::DecodeStep& step, Tensor stream) {
  mixer_->decode(pass, step, attn_norm_.before_product(), stream);
  glu_.decode(pass, step, mlp_norm_.before_product(), stream);
}

template <typename Layer>
void Block::backward_layer(Pass& pass, const PreNorm& norm, Layer& layer, Tensor grad_stream) {
  const Tensor kept = pass.tape.pop();
  const Tensor rms = pass.tape.pop();
  const Tensor stream = pass.tape.pop();
  Tape::Scratch scratch(pass.tape);
  const Tensor grad_normalized = scratch.tensor(pass.dtype, stream.shape());
  // Where its output was not kept, the norm writes it over the gradient.
  const Tensor again = kept ? Tensor() : grad_normalized;
  const auto norm_backward = [&] {
    norm.backward(pass, stream, rms, grad_normalized, grad_stream, again, grad_stream);
    return kept ? kept : again;
  };
  layer.backward(pass, norm_backward, grad_stream, grad_normalized);
}

void Block::backward(Pass& pass, Tensor grad_stream, Keep kept) {
  Tape& tape = pass.tape;
  if (kept == Keep::input) {
    const Tensor input = tape.pop();
    pass.keeps_norms = false;
    tape.begin_frame();
    run(pass, input, tape.allocate(pass.dtype, input.shape()), {});
  }
  backward_layer(pass, mlp_norm_, glu_, grad_stream);
  tape.end_frame();
  backward_layer(pass, attn_norm_, *mixer_, grad_stream);
  if (kept == Keep::input) {
    tape.end_frame();
  }
}

}  // namespace gsa
