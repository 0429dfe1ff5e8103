// The gated linear unit's element-wise part, SwiGLU (Shazeer, arXiv 2002.05202):
// output = swish(gate) * up, with gate and up side by side as one product leaves them; alone, and
// together with the product in front of it or behind it.
#pragma once

#include "kernels/device.h"
#include "kernels/matmul.h"

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

// The product in front of it and SwiGLU, in one: gate_up = input weight^T, of which the output is
// computed as it lies in memory.
struct SwigluProductForward {
  ConstTensor input;   // [N, D]
  ConstTensor weight;  // [2F, D]: the gate's rows, then up's
  Tensor gate_up;      // [N, 2F]
  Tensor output;       // [N, F], or absent

  // Its two parts, as operations of their own.
  Matmul product() const {
    return {.a = input, .b = weight, .transpose_b = Transpose::yes, .c = gate_up};
  }
  SwigluForward activation() const { return {.gate_up = gate_up, .output = output}; }
  double flops() const { return product().flops(); }
  void check() const;
};

// The product behind it, y = output weight^T, and SwiGLU, backward: the gradient of the output,
// grad_product weight, goes straight into SwigluBackward.
struct SwigluProductBackward {
  ConstTensor grad_product;  // [N, D]
  ConstTensor weight;        // [D, F]
  ConstTensor gate_up;       // [N, 2F]
  Tensor output;             // [N, F] recomputed
  Tensor grad_gate_up;       // [N, 2F], may be gate_up

  // Its two parts, as operations of their own: the output's gradient lies in its place.
  Matmul product() const { return {.a = grad_product, .b = weight, .c = output}; }
  SwigluBackward activation() const {
    return {
        .gate_up = gate_up, .grad_output = output, .output = output, .grad_gate_up = grad_gate_up};
  }
  double flops() const { return product().flops(); }
  void check() const;
};

void swiglu_product_forward(Stream& stream, const SwigluProductForward& args);
void swiglu_product_backward(Stream& stream, const SwigluProductBackward& args);
void swiglu_forward(Stream& stream, const SwigluForward& args);
void swiglu_backward(Stream& stream, const SwigluBackward& args);

}  // namespace gsa::kernels
