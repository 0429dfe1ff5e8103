#include "trainer/model/glu_mixer.h"

#include "kernels/glu.h"
#include "trainer/model/linear.h"

namespace gsa {

GluMixer::GluMixer(const ModelConfig& config, const std::string& prefix, ParameterStore& parameters)
    : intermediate_(config.resolved_intermediate()) {
  const auto matrix = [&](const char* name, int64_t rows, int64_t columns) {
    return parameters.add(prefix + name + ".weight", {rows, columns}, Initialization::normal);
  };
  const Parameter gate = matrix("gate_proj", intermediate_, config.hidden);
  const Parameter up = matrix("up_proj", intermediate_, config.hidden);
  gate_up_proj_ = parameters.fuse(gate, up);
  down_proj_ = matrix("down_proj", config.hidden, intermediate_);
}

void GluMixer::forward(Pass& pass, ConstTensor input, ConstTensor stream, Tensor output) {
  const int64_t tokens = pass.tokens();
  const Tensor gate_up = pass.tape.allocate(pass.dtype, {tokens, 2 * intermediate_});
  pass.tape.push(gate_up);
  Tape::Scratch scratch(pass.tape);
  const Tensor activated = output ? scratch.tensor(pass.dtype, {tokens, intermediate_}) : Tensor();
  kernels::swiglu_product_forward(
      pass.stream,
      {.input = input, .weight = gate_up_proj_.weight(), .gate_up = gate_up, .output = activated});
  if (!output) {
    return;
  }
  linear_forward_onto(pass, activated, down_proj_, stream, output);
}

void GluMixer::decode(Pass& pass, kernels::DecodeStep& step, const NormBefore& norm,
                      Tensor stream) {
  const Tensor activated = pass.tape.allocate(pass.dtype, {stream.dim(0), intermediate_});
  linear_decode(step, stream, norm, gate_up_proj_, kernels::DecodeActivation::swiglu, activated);
  linear_decode_onto(step, activated, {}, down_proj_, stream);
}

void GluMixer::backward(Pass& pass, const InputAgain& input, ConstTensor grad_output,
                        Tensor grad_input) {
  const Tensor gate_up = pass.tape.pop();
  Tape::Scratch scratch(pass.tape);
  const Tensor activated = scratch.tensor(pass.dtype, {pass.tokens(), intermediate_});
  // The gradients of gate and up take their place.
  kernels::swiglu_product_backward(pass.stream, {.grad_product = grad_output,
                                                 .weight = down_proj_.weight(),
                                                 .gate_up = gate_up,
                                                 .output = activated,
                                                 .grad_gate_up = gate_up});
  linear_backward_weight(pass, activated, down_proj_, grad_output);
  linear_backward_input(pass, gate_up_proj_, gate_up, grad_input);
  linear_backward_weight(pass, input(), gate_up_proj_, gate_up);
}

}  // namespace gsa
