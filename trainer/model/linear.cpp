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

namespace {

kernels::DecodeLinear decode_product(ConstTensor input, const NormBefore& norm,
                                     const Parameter& parameter, Tensor output) {
  return {.input = input,
          .norm = norm.kind,
          .norm_weight = norm.weight,
          .epsilon = norm.epsilon,
          .weight = parameter.weight(),
          .residual = {},
          .output = output};
}

}  // namespace

void linear_decode(kernels::DecodeStep& step, ConstTensor input, const NormBefore& norm,
                   const Parameter& parameter, kernels::DecodeActivation activation,
                   Tensor output) {
  kernels::DecodeLinear product = decode_product(input, norm, parameter, output);
  product.activation = activation;
  step.operations.emplace_back(product);
}

void linear_decode_onto(kernels::DecodeStep& step, ConstTensor input, const NormBefore& norm,
                        const Parameter& parameter, Tensor stream) {
  kernels::DecodeLinear product = decode_product(input, norm, parameter, stream);
  product.residual = stream;
  step.operations.emplace_back(product);
}

}  // namespace gsa
