#include <algorithm>

#include "kernels/backends.h"
#include "kernels/cpu/math.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/typed.h"

namespace gsa::kernels::cpu {
namespace {

// The rows' blocks each sum a weight's gradient of their own, side by side in the workspace, and
// these are added in order.
template <typename T>
class WeightGradient {
 public:
  WeightGradient(const Tensor& grad_weight, int64_t columns, std::byte* workspace)
      : target_(elements_of<T>(grad_weight)),
        columns_(columns),
        partial_(reinterpret_cast<T*>(workspace)) {}

  // The block's own sum, zeroed; null without a weight.
  T* start(int64_t block) const {
    if (target_ == nullptr) {
      return nullptr;
    }
    T* own = partial_ + block * columns_;
    std::fill_n(own, columns_, T(0));
    return own;
  }

  void add_blocks(int64_t blocks) const {
    if (target_ == nullptr) {
      return;
    }
    parallel_for(columns_, blocks, [&](int64_t begin, int64_t end) {
      for (int64_t block = 0; block < blocks; ++block) {
        const T* own = partial_ + block * columns_;
#pragma omp simd
        for (int64_t d = begin; d < end; ++d) {
          target_[d] += own[d];
        }
      }
    });
  }

  static size_t bytes(const Tensor& grad_weight, int64_t blocks, int64_t columns) {
    return grad_weight ? static_cast<size_t>(blocks * columns) * sizeof(T) : 0;
  }

 private:
  T* target_;
  int64_t columns_;
  T* partial_;
};

template <typename T>
T inverse_rms_of(double sum_of_squares, int64_t columns, double epsilon) {
  return T(1 / std::sqrt(sum_of_squares / double(columns) + epsilon));
}

// output = x * r * weight; the weight may be null.
template <typename T>
void scale_row(const T* x, T r, const T* weight, int64_t columns, T* output) {
  if (weight == nullptr) {
#pragma omp simd
    for (int64_t d = 0; d < columns; ++d) {
      output[d] = x[d] * r;
    }
    return;
  }
#pragma omp simd
  for (int64_t d = 0; d < columns; ++d) {
    output[d] = x[d] * r * weight[d];
  }
}

// own[d] += grad_output[d] * x(d) * r.
template <typename T, typename X>
void add_weight_gradient(const T* grad_output, const X& x, T r, int64_t columns, T* own) {
#pragma omp simd
  for (int64_t d = 0; d < columns; ++d) {
    own[d] += grad_output[d] * (x(d) * r);
  }
}

// Calls body(g) with g(d) = grad_output[d] * weight[d], the weight being one where there is none.
// The choice must be made out here: inside the loops it would become masked loads, which from a
// null pointer take many times as long as the rest.
template <typename T, typename Body>
void with_normalized_gradient(const T* grad_output, const T* weight, const Body& body) {
  if (weight == nullptr) {
    body([grad_output](int64_t d) { return grad_output[d]; });
  } else {
    body([grad_output, weight](int64_t d) { return grad_output[d] * weight[d]; });
  }
}

// Calls body(keep) with keep(d, x) writing output[d] = x * r * weight[d], as forward does; nothing
// where there is no output. It is called once an element's gradients have been read.
template <typename T, typename Body>
void with_output(T* output, T r, const T* weight, const Body& body) {
  if (output == nullptr) {
    body([](int64_t /*d*/, T /*x*/) {});
  } else if (weight == nullptr) {
    body([=](int64_t d, T x) { output[d] = x * r; });
  } else {
    body([=](int64_t d, T x) { output[d] = x * r * weight[d]; });
  }
}

// With y = x r, the gradient of x is r (g - y mean(g y)), that is r g - x c. This is c.
template <typename T, typename G, typename X>
T row_correction(const G& g, const X& x, T r, int64_t columns) {
  const double sum = stable_sum<T>(columns, [g, x](int64_t d) { return g(d) * x(d); });
  return T(double(r) * double(r) * double(r) * sum / double(columns));
}

// One row's grad_input; `grad_residual` may be null, and may be grad_input.
template <typename T, typename G, typename Keep>
void rms_norm_backward_row(const G& g, const T* x, T r, int64_t columns, const T* grad_residual,
                           T* grad_input, const Keep& keep) {
  const auto element = [x](int64_t d) { return x[d]; };
  const T correction = row_correction(g, element, r, columns);
  if (grad_residual == nullptr) {
#pragma omp simd
    for (int64_t d = 0; d < columns; ++d) {
      const T here = x[d];
      grad_input[d] = r * g(d) - here * correction;
      keep(d, here);
    }
    return;
  }
#pragma omp simd
  for (int64_t d = 0; d < columns; ++d) {
    const T here = x[d];
    grad_input[d] = r * g(d) - here * correction + grad_residual[d];
    keep(d, here);
  }
}

// The same behind a swish of h whose sigmoids are s.
template <typename T, typename G, typename Keep>
void swish_rms_norm_backward_row(const G& g, const T* h, const T* s, T r, int64_t columns,
                                 T* grad_input, const Keep& keep) {
  const auto swish = [h, s](int64_t d) { return h[d] * s[d]; };
  const T correction = row_correction(g, swish, r, columns);
#pragma omp simd
  for (int64_t d = 0; d < columns; ++d) {
    const T x = swish(d);
    grad_input[d] = (r * g(d) - x * correction) * swish_derivative(h[d], s[d]);
    keep(d, x);
  }
}

}  // namespace

void rms_norm_forward(Stream& /*stream*/, const RmsNormForward& args) {
  with_real_type(args.input.dtype(), "rms_norm_forward", [&](auto type) {
    using T = decltype(type);
    const auto input = rows_of<T>(args.input);
    const auto output = rows_of<T>(args.output);
    const T* weight = elements_of<T>(args.weight);
    T* inverse_rms = args.inverse_rms.as<T>();
    const int64_t columns = args.input.dim(1);
    parallel_for(args.input.dim(0), columns, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const T* x = input[n];
        const double squares = stable_sum<T>(columns, [&](int64_t d) { return x[d] * x[d]; });
        const T r = inverse_rms_of<T>(squares, columns, args.epsilon);
        inverse_rms[n] = r;
        scale_row(x, r, weight, columns, output[n]);
      }
    });
  });
}

void rms_norm_backward(Stream& /*stream*/, const RmsNormBackward& args, std::byte* workspace) {
  with_real_type(args.input.dtype(), "rms_norm_backward", [&](auto type) {
    using T = decltype(type);
    const auto input = rows_of<T>(args.input);
    const auto grad_output = rows_of<T>(args.grad_output);
    const auto grad_residual = rows_of<T>(args.grad_residual);
    const auto grad_input = rows_of<T>(args.grad_input);
    const auto output = rows_of<T>(args.output);
    const T* weight = elements_of<T>(args.weight);
    const T* inverse_rms = args.inverse_rms.as<T>();
    const int64_t columns = args.input.dim(1);
    const RowBlocks blocks(args.input.dim(0));
    const WeightGradient<T> weight_gradient(args.grad_weight, columns, workspace);

    const auto backward_row = [&](int64_t n, T* own) {
      const T* x = input[n];
      const T* dy = grad_output[n];
      const T* added = grad_residual ? grad_residual[n] : nullptr;
      const T r = inverse_rms[n];
      if (own != nullptr) {
        add_weight_gradient(
            dy, [x](int64_t d) { return x[d]; }, r, columns, own);
      }
      with_normalized_gradient(dy, weight, [&](const auto& g) {
        with_output(output ? output[n] : nullptr, r, weight, [&](const auto& keep) {
          rms_norm_backward_row(g, x, r, columns, added, grad_input[n], keep);
        });
      });
    };
    parallel_for(blocks.count, blocks.block_rows * columns, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) {
        T* own = weight_gradient.start(block);
        for (int64_t n = blocks.begin(block); n < blocks.end(block); ++n) {
          backward_row(n, own);
        }
      }
    });
    weight_gradient.add_blocks(blocks.count);
  });
}

size_t rms_norm_backward_workspace(const RmsNormBackward& args) {
  const int64_t blocks = RowBlocks(args.input.dim(0)).count;
  const int64_t columns = args.input.dim(1);
  return args.input.dtype() == DType::float64
             ? WeightGradient<double>::bytes(args.grad_weight, blocks, columns)
             : WeightGradient<float>::bytes(args.grad_weight, blocks, columns);
}

void swish_rms_norm_forward(Stream& /*stream*/, const SwishRmsNormForward& args) {
  with_real_type(args.input.dtype(), "swish_rms_norm_forward", [&](auto type) {
    using T = decltype(type);
    const auto input = rows_of<T>(args.input);
    const auto output = rows_of<T>(args.output);
    const T* weight = elements_of<T>(args.weight);
    T* inverse_rms = args.inverse_rms.as<T>();
    const int64_t columns = args.input.dim(1);
    parallel_for(args.input.dim(0), columns, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const T* h = input[n];
        T* x = output[n];  // holds the swish until it is scaled in place
        const double squares = stable_sum<T>(columns, [&](int64_t d) {
          const T swish = h[d] * sigmoid(h[d]);
          x[d] = swish;
          return swish * swish;
        });
        const T r = inverse_rms_of<T>(squares, columns, args.epsilon);
        inverse_rms[n] = r;
        scale_row(x, r, weight, columns, x);
      }
    });
  });
}

void swish_rms_norm_backward(Stream& /*stream*/, const SwishRmsNormBackward& args,
                             std::byte* workspace) {
  with_real_type(args.input.dtype(), "swish_rms_norm_backward", [&](auto type) {
    using T = decltype(type);
    const auto input = rows_of<T>(args.input);
    const auto grad_output = rows_of<T>(args.grad_output);
    const auto grad_input = rows_of<T>(args.grad_input);
    const auto output = rows_of<T>(args.output);
    const T* weight = elements_of<T>(args.weight);
    const T* inverse_rms = args.inverse_rms.as<T>();
    const int64_t columns = args.input.dim(1);
    const RowBlocks blocks(args.input.dim(0));
    // Each block's sigmoids of a row, then the weight gradients of the blocks.
    T* const sigmoids = reinterpret_cast<T*>(workspace);
    auto* const partial_sums = reinterpret_cast<std::byte*>(sigmoids + blocks.count * columns);
    const WeightGradient<T> weight_gradient(args.grad_weight, columns, partial_sums);

    const auto backward_row = [&](int64_t n, T* own, T* s) {
      const T* h = input[n];
      const T* dy = grad_output[n];
      const T r = inverse_rms[n];
#pragma omp simd
      for (int64_t d = 0; d < columns; ++d) {
        s[d] = sigmoid(h[d]);
      }
      if (own != nullptr) {
        add_weight_gradient(
            dy, [h, s](int64_t d) { return h[d] * s[d]; }, r, columns, own);
      }
      with_normalized_gradient(dy, weight, [&](const auto& g) {
        with_output(output ? output[n] : nullptr, r, weight, [&](const auto& keep) {
          swish_rms_norm_backward_row(g, h, s, r, columns, grad_input[n], keep);
        });
      });
    };
    parallel_for(blocks.count, blocks.block_rows * columns, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) {
        T* own = weight_gradient.start(block);
        for (int64_t n = blocks.begin(block); n < blocks.end(block); ++n) {
          backward_row(n, own, sigmoids + block * columns);
        }
      }
    });
    weight_gradient.add_blocks(blocks.count);
  });
}

size_t swish_rms_norm_backward_workspace(const SwishRmsNormBackward& args) {
  const int64_t blocks = RowBlocks(args.input.dim(0)).count;
  const int64_t columns = args.input.dim(1);
  const size_t element = args.input.dtype() == DType::float64 ? sizeof(double) : sizeof(float);
  const int64_t sums = args.grad_weight ? 2 : 1;
  return static_cast<size_t>(sums * blocks * columns) * element;
}

}  // namespace gsa::kernels::cpu
