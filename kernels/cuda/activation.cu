// Swish, the forget gate and SwiGLU, element by element (kernels/cuda/map_rows.h). Bytes a bf16
// element: swish 4 forward, 6 backward; gate 6, 8; SwiGLU 6 forward, 10 backward (12 with the
// output written again). Arithmetic: an exponential and a division, far under the memory's time.
#include "kernels/backends.h"
#include "kernels/cuda/map_rows.h"

namespace gsa::kernels::cuda {
namespace {

template <typename T>
struct Swish {
  Rows<const T> input;
  Rows<T> output;

  template <int width>
  __device__ void apply(int64_t row, int64_t column) const {
    float x[width];
    load(input.at(row, column), x);
#pragma unroll
    for (int i = 0; i < width; ++i) {
      x[i] *= sigmoid(x[i]);
    }
    store(output.at(row, column), x);
  }
};

template <typename T>
struct SwishGradient {
  Rows<const T> input;
  Rows<const T> grad_output;
  Rows<T> grad_input;

  template <int width>
  __device__ void apply(int64_t row, int64_t column) const {
    float x[width];
    float grad[width];
    load(input.at(row, column), x);
    load(grad_output.at(row, column), grad);
#pragma unroll
    for (int i = 0; i < width; ++i) {
      grad[i] *= swish_slope(x[i], sigmoid(x[i]));
    }
    store(grad_input.at(row, column), grad);
  }
};

template <typename T>
struct LogGate {
  Rows<const T> input;
  Rows<float> log_alpha;
  float inverse_normalizer;

  template <int width>
  __device__ void apply(int64_t row, int64_t column) const {
    float x[width];
    load(input.at(row, column), x);
#pragma unroll
    for (int i = 0; i < width; ++i) {
      // log sigmoid(x) without overflow; here exact functions, the gate is exponentiated later.
      x[i] = (fminf(x[i], 0.0F) - log1pf(expf(-fabsf(x[i])))) * inverse_normalizer;
    }
    store(log_alpha.at(row, column), x);
  }
};

template <typename T>
struct LogGateGradient {
  Rows<const T> input;
  Rows<const float> grad_log_alpha;
  Rows<T> grad_input;
  float inverse_normalizer;

  template <int width>
  __device__ void apply(int64_t row, int64_t column) const {
    float x[width];
    float grad[width];
    load(input.at(row, column), x);
    load(grad_log_alpha.at(row, column), grad);
#pragma unroll
    for (int i = 0; i < width; ++i) {
      grad[i] *= sigmoid(-x[i]) * inverse_normalizer;
    }
    store(grad_input.at(row, column), grad);
  }
};

template <typename T>
struct Swiglu {
  Rows<const T> gate;
  Rows<const T> up;
  Rows<T> output;

  template <int width>
  __device__ void apply(int64_t row, int64_t column) const {
    float a[width];
    float b[width];
    load(gate.at(row, column), a);
    load(up.at(row, column), b);
#pragma unroll
    for (int i = 0; i < width; ++i) {
      b[i] *= a[i] * sigmoid(a[i]);
    }
    store(output.at(row, column), b);
  }
};

// A thread reads all three before it writes any: outputs may lie over inputs.
template <typename T>
struct SwigluGradient {
  Rows<const T> gate;
  Rows<const T> up;
  Rows<const T> grad_output;
  Rows<T> output;  // or absent
  Rows<T> grad_gate;
  Rows<T> grad_up;

  template <int width>
  __device__ void apply(int64_t row, int64_t column) const {
    float a[width];
    float b[width];
    float grad[width];
    float again[width];
    load(gate.at(row, column), a);
    load(up.at(row, column), b);
    load(grad_output.at(row, column), grad);
#pragma unroll
    for (int i = 0; i < width; ++i) {
      const float s = sigmoid(a[i]);
      const float swish = a[i] * s;
      again[i] = swish * b[i];
      a[i] = grad[i] * b[i] * swish_slope(a[i], s);
      b[i] = grad[i] * swish;
    }
    if (output) {
      store(output.at(row, column), again);
    }
    store(grad_gate.at(row, column), a);
    store(grad_up.at(row, column), b);
  }
};

}  // namespace

void swish_forward(Stream& stream, const SwishForward& args) {
  with_element(args.input.dtype(), "swish_forward", [&](auto element) {
    using T = decltype(element);
    map_rows(stream, args.input.dim(0), args.input.dim(1), are_aligned(args.input, args.output),
             Swish<T>{rows_of<T>(args.input), rows_of<T>(args.output)}, "swish_forward");
  });
}

void swish_backward(Stream& stream, const SwishBackward& args) {
  with_element(args.input.dtype(), "swish_backward", [&](auto element) {
    using T = decltype(element);
    map_rows(stream, args.input.dim(0), args.input.dim(1),
             are_aligned(args.input, args.grad_output, args.grad_input),
             SwishGradient<T>{rows_of<T>(args.input), rows_of<T>(args.grad_output),
                              rows_of<T>(args.grad_input)},
             "swish_backward");
  });
}

void log_gate_forward(Stream& stream, const LogGateForward& args) {
  with_element(args.input.dtype(), "log_gate_forward", [&](auto element) {
    using T = decltype(element);
    map_rows(stream, args.input.dim(0), args.input.dim(1), are_aligned(args.input, args.log_alpha),
             LogGate<T>{rows_of<T>(args.input), rows_of<float>(args.log_alpha),
                        float(1 / args.normalizer)},
             "log_gate_forward");
  });
}

void log_gate_backward(Stream& stream, const LogGateBackward& args) {
  with_element(args.input.dtype(), "log_gate_backward", [&](auto element) {
    using T = decltype(element);
    map_rows(stream, args.input.dim(0), args.input.dim(1),
             are_aligned(args.input, args.grad_log_alpha, args.grad_input),
             LogGateGradient<T>{rows_of<T>(args.input), rows_of<float>(args.grad_log_alpha),
                                rows_of<T>(args.grad_input), float(1 / args.normalizer)},
             "log_gate_backward");
  });
}

void swiglu_forward(Stream& stream, const SwigluForward& args) {
  const int64_t columns = args.output.dim(1);
  const ConstTensor gate = args.gate_up.columns(0, columns);
  const ConstTensor up = args.gate_up.columns(columns, 2 * columns);
  with_element(args.output.dtype(), "swiglu_forward", [&](auto element) {
    using T = decltype(element);
    map_rows(stream, args.output.dim(0), columns, are_aligned(gate, up, args.output),
             Swiglu<T>{rows_of<T>(gate), rows_of<T>(up), rows_of<T>(args.output)},
             "swiglu_forward");
  });
}

void swiglu_backward(Stream& stream, const SwigluBackward& args) {
  const int64_t columns = args.grad_output.dim(1);
  const ConstTensor gate = args.gate_up.columns(0, columns);
  const ConstTensor up = args.gate_up.columns(columns, 2 * columns);
  const Tensor grad_gate = args.grad_gate_up.columns(0, columns);
  const Tensor grad_up = args.grad_gate_up.columns(columns, 2 * columns);
  const bool aligned = are_aligned(gate, up, args.grad_output, args.output, grad_gate, grad_up);
  with_element(args.grad_output.dtype(), "swiglu_backward", [&](auto element) {
    using T = decltype(element);
    map_rows(stream, args.grad_output.dim(0), columns, aligned,
             SwigluGradient<T>{rows_of<T>(gate), rows_of<T>(up), rows_of<T>(args.grad_output),
                               rows_of<T>(args.output), rows_of<T>(grad_gate), rows_of<T>(grad_up)},
             "swiglu_backward");
  });
}

}  // namespace gsa::kernels::cuda
