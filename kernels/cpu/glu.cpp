#include "kernels/backends.h"
#include "kernels/cpu/math.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/typed.h"

namespace gsa::kernels::cpu {
namespace {

// One row of the backward pass. Every element is read before it is written, so that outputs may
// lie on inputs; `output` may be null.
template <typename T>
void swiglu_backward_row(int64_t width, const T* gate_up, const T* grad_output, T* output,
                         T* grad_gate_up) {
  const T* gate = gate_up;
  const T* up = gate_up + width;
  T* grad_gate = grad_gate_up;
  T* grad_up = grad_gate_up + width;
#pragma omp simd
  for (int64_t f = 0; f < width; ++f) {
    const T x = gate[f];
    const T u = up[f];
    const T dy = grad_output[f];
    const T s = sigmoid(x);
    const T swish = x * s;
    if (output != nullptr) {
      output[f] = swish * u;
    }
    grad_gate[f] = dy * u * swish_derivative(x, s);
    grad_up[f] = dy * swish;
  }
}

}  // namespace

void swiglu_forward(Stream& /*stream*/, const SwigluForward& args) {
  with_real_type(args.output.dtype(), "swiglu_forward", [&](auto type) {
    using T = decltype(type);
    const auto gate_up = rows_of<T>(args.gate_up);
    const auto output = rows_of<T>(args.output);
    const int64_t width = args.output.dim(1);
    parallel_for(args.output.dim(0), width, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const T* gate = gate_up[n];
        const T* up = gate + width;
        T* y = output[n];
#pragma omp simd
        for (int64_t f = 0; f < width; ++f) {
          y[f] = gate[f] * sigmoid(gate[f]) * up[f];
        }
      }
    });
  });
}

void swiglu_backward(Stream& /*stream*/, const SwigluBackward& args) {
  with_real_type(args.grad_output.dtype(), "swiglu_backward", [&](auto type) {
    using T = decltype(type);
    const auto gate_up = rows_of<T>(args.gate_up);
    const auto grad_output = rows_of<T>(args.grad_output);
    const auto output = rows_of<T>(args.output);
    const auto grad_gate_up = rows_of<T>(args.grad_gate_up);
    const int64_t width = args.grad_output.dim(1);
    parallel_for(args.grad_output.dim(0), width, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        swiglu_backward_row<T>(width, gate_up[n], grad_output[n], output ? output[n] : nullptr,
                               grad_gate_up[n]);
      }
    });
  });
}

size_t swiglu_product_forward_workspace(const SwigluProductForward& args) {
  return matmul_workspace(args.product());
}
void swiglu_product_forward(Stream& stream, const SwigluProductForward& args,
                            std::byte* workspace) {
  matmul(stream, args.product(), workspace);
  if (args.output) {
    cpu::swiglu_forward(stream, args.activation());
  }
}

size_t swiglu_product_backward_workspace(const SwigluProductBackward& args) {
  return matmul_workspace(args.product());
}
void swiglu_product_backward(Stream& stream, const SwigluProductBackward& args,
                             std::byte* workspace) {
  matmul(stream, args.product(), workspace);
  cpu::swiglu_backward(stream, args.activation());
}

}  // namespace gsa::kernels::cpu
