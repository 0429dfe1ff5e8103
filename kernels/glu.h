// The gated linear unit's element-wise part, SwiGLU (Shazeer, arXiv 2002.05202):
// output = swish(gate) * up, with gate and up side by side as one product leaves them.
#pragma once

#include "kernels/device.h"

namespace gsa::kernels {

struct SwigluForward {
  ConstTensor gate_up;  // [N, 2F]: gate in the first F columns, up in the last
  Tensor output;        // [N, F]

  void check() const;
};

// Also writes the output again if asked to, so that it need not be kept for the weight gradient.
struct SwigluBackward {
  ConstTensor gate_up;      // [N, 2F]
  ConstTensor grad_output;  // [N, F]
  Tensor output;            // [N, F] recomputed, or absent; may be grad_output
  Tensor grad_gate_up;      // [N, 2F], may be gate_up

  void check() const;
};

void swiglu_forward(Stream& stream, const SwigluForward& args);
void swiglu_backward(Stream& stream, const SwigluBackward& args);

}  // namespace gsa::kernels
