#include "trainer/model/linear.h"

#include "kernels/matmul.h"

namespace gsa {

using kernels::Transpose;

void linear_forward(Pass& pass, ConstTensor input, const Parameter& parameter, Tensor output) {
  kernels::matmul(
      pass.stream,
      {.a = input, .b = parameter.weight(), .transpose_b = Transpose::yes, .c = output});
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

}  // namespace gsa
