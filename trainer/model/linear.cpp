#include "trainer/model/linear.h"

#include "kernels/matmul.h"

namespace gsa {

using kernels::Transpose;

void linear_forward(Pass& pass, ConstTensor input, const Parameter& parameter, Tensor output) {
  kernels::matmul(
      pass.stream,
      {.a = input, .b = parameter.weight(), .transpose_b = Transpose::yes, .c = output});
}

void linear_forward_onto(Pass& pass, ConstTensor input, const Parameter& parameter, ConstTensor sum,
                         Tensor output) {
  kernels::matmul(pass.stream, {.a = input,
                                .b = parameter.weight(),
                                .transpose_b = Transpose::yes,
                                .addend = sum,
                                .c = output});
}

void linear_backward_input(Pass& pass, const Parameter& parameter, ConstTensor grad_output,
                           Tensor grad_input) {
  kernels::matmul(pass.stream, {.a = grad_output, .b = parameter.weight(), .c = grad_input});
}

void linear_backward_weight(Pass& pass, ConstTensor input, const Parameter& parameter,
                            ConstTensor grad_output) {
  kernels::matmul(pass.stream, {.a = grad_output,
                                .b = input,
                                .transpose_a = Transpose::yes,
                                .accumulate = parameter.accumulate(),
                                .c = parameter.gradient()});
}

void linear_decode(kernels::DecodeStep& step, ConstTensor input, const NormBefore& norm,
                   const Parameter& parameter, kernels::DecodeActivation activation,
                   Tensor output) {
  step.operations.emplace_back(kernels::DecodeLinear{.input = input,
                                                     .norm = norm.kind,
                                                     .norm_weight = norm.weight,
                                                     .epsilon = norm.epsilon,
                                                     .weight = parameter.weight(),
                                                     .activation = activation,
                                                     .residual = {},
                                                     .output = output});
}

void linear_decode_onto(kernels::DecodeStep& step, ConstTensor input, const NormBefore& norm,
                        const Parameter& parameter, Tensor stream) {
  step.operations.emplace_back(kernels::DecodeLinear{.input = input,
                                                     .norm = norm.kind,
                                                     .norm_weight = norm.weight,
                                                     .epsilon = norm.epsilon,
                                                     .weight = parameter.weight(),
                                                     .residual = stream,
                                                     .output = stream});
}

}  // namespace gsa
