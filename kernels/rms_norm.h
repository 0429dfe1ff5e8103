// Root-mean-square normalization (Zhang and Sennrich, arXiv 1910.07467), alone and fused with the
// swish before the mixer's output projection.
//
//   x = input;  r = 1 / sqrt(mean(x^2) + epsilon);  output = x * r * weight
//
// Statistics (`inverse_rms`, weights' gradients, sums) are float32, float64 when the tensors are.
#pragma once

#include "kernels/device.h"

namespace gsa::kernels {

struct RmsNormForward {
  ConstTensor input;   // [N, D]
  ConstTensor weight;  // [D], or absent: ones
  double epsilon = 1e-6;
  Tensor output;       // [N, D]
  Tensor inverse_rms;  // [N] float32 | float64

  void check() const;
};

struct RmsNormBackward {
  ConstTensor input;          // [N, D]
  ConstTensor weight;         // [D], or absent
  ConstTensor inverse_rms;    // [N]
  ConstTensor grad_output;    // [N, D]
  ConstTensor grad_residual;  // [N, D] a gradient of the same x from elsewhere, added; or absent
  Tensor output;              // [N, D] the norm's output once more, for the products behind it;
                              // may be grad_output; or absent
  Tensor grad_input;          // [N, D] may be grad_output (unless output is) or grad_residual
  Tensor grad_weight;         // [D] float32 | float64, accumulated; absent without a weight

  void check() const;
};

// output = x * r * weight with x = swish(input): the norm on GSA's way out.
struct SwishRmsNormForward {
  ConstTensor input;   // [N, D]
  ConstTensor weight;  // [D], or absent
  double epsilon = 1e-5;
  Tensor output;       // [N, D]
  Tensor inverse_rms;  // [N]

  void check() const;
};

struct SwishRmsNormBackward {
  ConstTensor input;        // [N, D] before the swish
  ConstTensor weight;       // [D], or absent
  ConstTensor inverse_rms;  // [N]
  ConstTensor grad_output;  // [N, D]
  Tensor output;            // [N, D] the norm's output once more; may be grad_output; or absent
  Tensor grad_input;        // [N, D] may be grad_output (unless output is) or input
  Tensor grad_weight;       // [D], accumulated; absent without a weight

  void check() const;
};

void rms_norm_forward(Stream& stream, const RmsNormForward& args);
void rms_norm_backward(Stream& stream, const RmsNormBackward& args);
void swish_rms_norm_forward(Stream& stream, const SwishRmsNormForward& args);
void swish_rms_norm_backward(Stream& stream, const SwishRmsNormBackward& args);

}  // namespace gsa::kernels
