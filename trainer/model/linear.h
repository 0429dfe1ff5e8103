// y = x W^T without bias, and its gradients: the matrix products of every layer.
#pragma once

#include "trainer/model/parameters.h"
#include "trainer/model/pass.h"

namespace gsa {

// output [N, out] = input [N, in] * weight [out, in]^T.
void linear_forward(Pass& pass, ConstTensor input, const Parameter& parameter, Tensor output);

// grad_input = grad_output * weight.
void linear_backward_input(Pass& pass, const Parameter& parameter, ConstTensor grad_output,
                           Tensor grad_input);

// weight gradient += grad_output^T * input.
void linear_backward_weight(Pass& pass, ConstTensor input, const Parameter& parameter,
                            ConstTensor grad_output);

}  // namespace gsa
