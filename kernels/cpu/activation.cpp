#include "kernels/backends.h"
#include "kernels/cpu/math.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/typed.h"

namespace gsa::kernels::cpu {

void swish_forward(Stream& /*stream*/, const SwishForward& args) {
  with_real_type(args.input.dtype(), "swish_forward", [&](auto type) {
    using T = decltype(type);
    const auto input = rows_of<T>(args.input);
    const auto output = rows_of<T>(args.output);
    const int64_t columns = args.input.dim(1);
    parallel_for(args.input.dim(0), columns, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const T* x = input[n];
        T* y = output[n];
#pragma omp simd
        for (int64_t c = 0; c < columns; ++c) {
          y[c] = x[c] * sigmoid(x[c]);
        }
      }
    });
  });
}

void swish_backward(Stream& /*stream*/, const SwishBackward& args) {
  with_real_type(args.input.dtype(), "swish_backward", [&](auto type) {
    using T = decltype(type);
    const auto input = rows_of<T>(args.input);
    const auto grad_output = rows_of<T>(args.grad_output);
    const auto grad_input = rows_of<T>(args.grad_input);
    const int64_t columns = args.input.dim(1);
    parallel_for(args.input.dim(0), columns, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const T* x = input[n];
        const T* dy = grad_output[n];
        T* dx = grad_input[n];
#pragma omp simd
        for (int64_t c = 0; c < columns; ++c) {
          dx[c] = dy[c] * swish_derivative(x[c], sigmoid(x[c]));
        }
      }
    });
  });
}

void log_gate_forward(Stream& /*stream*/, const LogGateForward& args) {
  with_real_type(args.input.dtype(), "log_gate_forward", [&](auto type) {
    using T = decltype(type);
    const auto input = rows_of<T>(args.input);
    const auto log_alpha = rows_of<T>(args.log_alpha);
    const int64_t columns = args.input.dim(1);
    const T factor = T(1 / args.normalizer);
    parallel_for(args.input.dim(0), columns, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const T* x = input[n];
        T* y = log_alpha[n];
#pragma omp simd
        for (int64_t c = 0; c < columns; ++c) {
          y[c] = factor * log_sigmoid(x[c]);
        }
      }
    });
  });
}

void log_gate_backward(Stream& /*stream*/, const LogGateBackward& args) {
  with_real_type(args.input.dtype(), "log_gate_backward", [&](auto type) {
    using T = decltype(type);
    const auto input = rows_of<T>(args.input);
    const auto grad_log_alpha = rows_of<T>(args.grad_log_alpha);
    const auto grad_input = rows_of<T>(args.grad_input);
    const int64_t columns = args.input.dim(1);
    const T factor = T(1 / args.normalizer);
    parallel_for(args.input.dim(0), columns, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const T* x = input[n];
        const T* dy = grad_log_alpha[n];
        T* dx = grad_input[n];
#pragma omp simd
        for (int64_t c = 0; c < columns; ++c) {
          dx[c] = dy[c] * factor * sigmoid(-x[c]);
        }
      }
    });
  });
}

}  // namespace gsa::kernels::cpu
