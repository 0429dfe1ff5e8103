// The element-wise functions before the GSA op: swish (SiLU) of q, k and v, and the forget gate.
// Tensors are [N, C]; rows may be strided (columns of a fused product).
#pragma once

#include "kernels/device.h"

namespace gsa::kernels {

// output = input * sigmoid(input).
struct SwishForward {
  ConstTensor input;
  Tensor output;

  void check() const;
};

struct SwishBackward {
  ConstTensor input;
  ConstTensor grad_output;
  Tensor grad_input;  // may be grad_output

  void check() const;
};

// log_alpha = logsigmoid(input) / normalizer, without overflow for any input.
struct LogGateForward {
  ConstTensor input;
  double normalizer = 8;
  Tensor log_alpha;  // float32, float64 if the input is

  void check() const;
};

struct LogGateBackward {
  ConstTensor input;
  ConstTensor grad_log_alpha;  // dtype of log_alpha
  double normalizer = 8;
  Tensor grad_input;

  void check() const;
};

void swish_forward(Stream& stream, const SwishForward& args);
void swish_backward(Stream& stream, const SwishBackward& args);
void log_gate_forward(Stream& stream, const LogGateForward& args);
void log_gate_backward(Stream& stream, const LogGateBackward& args);

}  // namespace gsa::kernels
