// y = x W^T without bias, and its gradients: the matrix products of every layer.
#pragma once

#include "trainer/model/parameters.h"
#include "trainer/model/pass.h"

namespace gsa {

// output [N, out] = input [N, in] * weight [out, in]^T.
void linear_forward(Pass& pass, ConstTensor input, const Parameter& parameter, Tensor output);

// weight gradient += grad_output^T * input, and grad_input = grad_output * weight.
void linear_backward(Pass& pass, ConstTensor input, const Parameter& parameter,
                     ConstTensor grad_output, Tensor grad_input);

}  // namespace gsa
