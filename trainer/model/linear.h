// y = x W^T without bias, and its gradients: the matrix products of every layer.
#pragma once

#include "kernels/decode.h"
#include "trainer/model/parameters.h"
#include "trainer/model/pass.h"

namespace gsa {

// output [N, out] = input [N, in] * weight [out, in]^T.
void linear_forward(Pass& pass, ConstTensor input, const Parameter& parameter, Tensor output);

// output = sum + input * weight^T: a layer's last product adds to the stream. `output` may be
// `sum`.
void linear_forward_onto(Pass& pass, ConstTensor input, const Parameter& parameter, ConstTensor sum,
                         Tensor output);

// grad_input = grad_output * weight.
void linear_backward_input(Pass& pass, const Parameter& parameter, ConstTensor grad_output,
                           Tensor grad_input);

// weight gradient += grad_output^T * input.
void linear_backward_weight(Pass& pass, ConstTensor input, const Parameter& parameter,
                            ConstTensor grad_output);

// A norm in front of a product of a decode step (kernels/decode.h).
struct NormBefore {
  kernels::DecodeNorm kind = kernels::DecodeNorm::none;
  ConstTensor weight;  // or absent
  double epsilon = 0;
};

// Adds output = activation(norm(input) weight^T) to the operations of a step.
void linear_decode(kernels::DecodeStep& step, ConstTensor input, const NormBefore& norm,
                   const Parameter& parameter, kernels::DecodeActivation activation, Tensor output);

// Adds stream += norm(input) weight^T.
void linear_decode_onto(kernels::DecodeStep& step, ConstTensor input, const NormBefore& norm,
                        const Parameter& parameter, Tensor stream);

}  // namespace gsa
