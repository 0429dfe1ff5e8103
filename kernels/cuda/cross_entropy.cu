// Softmax cross-entropy, and the sums of losses.
//
// A block does one row: each thread goes through its vectors of the row with a running maximum and
// a sum of exponentials relative to it (online softmax: Milakov and Gimelshein, arXiv 1805.02867);
// the block combines them; then each thread reads its vectors again, a row of up to 128k logits
// still being in the L2 cache, and overwrites them with the gradient. Memory sees one read and one
// write: 4 bytes a bf16 logit; arithmetic is two exponentials a logit.
#include <algorithm>
#include <cfloat>
#include <cmath>

#include "kernels/backends.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/reduce.h"

namespace gsa::kernels::cuda {
namespace {

constexpr int max_threads = 512;
constexpr int max_warps = max_threads / warp_size;
constexpr int resident_blocks = 2;  // 64 registers a thread, for the vectors that are loaded ahead
constexpr int loads_ahead = 4;
constexpr int sum_threads = 1024;
constexpr int sum_warps = sum_threads / warp_size;

// A maximum, and a sum of exponentials relative to it.
struct Online {
  float maximum = -FLT_MAX;
  float sum = 0;

  template <int width>
  __device__ void add(const float (&x)[width]) {
    float highest = maximum;
#pragma unroll
    for (int i = 0; i < width; ++i) {
      highest = fmaxf(highest, x[i]);
    }
    float exponentials = 0;
#pragma unroll
    for (int i = 0; i < width; ++i) {
      exponentials += __expf(x[i] - highest);
    }
    sum = sum * __expf(maximum - highest) + exponentials;
    maximum = highest;
  }
};

// Calls `visit(column, x)` for the elements x of this thread's vectors of a row. Loads go ahead of
// the visits, which may store: otherwise each store would wait for a load before it.
template <int width, typename T, typename Visit>
__device__ void for_each_vector(const T* line, int64_t columns, Visit visit) {
  const int64_t whole = columns / width * width;
  const int64_t step = int64_t{blockDim.x} * width;
  for (int64_t base = int64_t{threadIdx.x} * width; base < whole; base += loads_ahead * step) {
    Vector<T, width> vectors[loads_ahead];
#pragma unroll
    for (int i = 0; i < loads_ahead; ++i) {
      if (base + i * step < whole) {
        vectors[i] = Vector<T, width>::load(line + base + i * step);
      }
    }
#pragma unroll
    for (int i = 0; i < loads_ahead; ++i) {
      if (base + i * step < whole) {
        float x[width];
        vectors[i].unpack(x);
        visit(base + i * step, x);
      }
    }
  }
  if constexpr (width > 1) {
    for (int64_t column = whole + threadIdx.x; column < columns; column += blockDim.x) {
      float x[1];
      load(line + column, x);
      visit(column, x);
    }
  }
}

template <typename T, int width>
__global__ void __launch_bounds__(max_threads, resident_blocks)
    cross_entropy_kernel(const int32_t* labels, Rows<T> logits, float gradient_scale, float* losses,
                         int64_t columns) {
  __shared__ float maxima[max_warps];
  __shared__ float sums[max_warps];
  const int64_t row = blockIdx.x;
  T* const line = logits.at(row, 0);
  const int32_t label = labels[row];
  if (label == ignored_label) {
    if (threadIdx.x == 0) {
      losses[row] = 0;
    }
    if (gradient_scale != 0) {
      for_each_vector<width>(line, columns, [&]<int w>(int64_t column, float(&)[w]) {
        const float zero[w] = {};
        store(line + column, zero);
      });
    }
    return;
  }
  // A label outside the vocabulary makes the loss NaN, which the step's end takes notice of.
  const bool known = label >= 0 && label < columns;
  const float target = known && threadIdx.x == 0 ? to_float(line[label]) : 0;
  Online online;
  for_each_vector<width>(line, columns, [&]<int w>(int64_t, const float(&x)[w]) { online.add(x); });
  const float maximum = block_reduce(online.maximum, maxima, Max{});
  const float total = block_reduce(online.sum * __expf(online.maximum - maximum), sums, Add{});
  if (threadIdx.x == 0) {
    losses[row] = known ? logf(total) + (maximum - target) : NAN;
  }
  if (gradient_scale == 0) {
    return;
  }
  const float scale = gradient_scale / total;
  for_each_vector<width>(line, columns, [&]<int w>(int64_t column, float(&x)[w]) {
#pragma unroll
    for (int i = 0; i < w; ++i) {
      x[i] = scale * __expf(x[i] - maximum) - (column + i == label ? gradient_scale : 0.0F);
    }
    store(line + column, x);
  });
}

// One block: thread t adds the tokens t, t + sum_threads, ...; then the block in its fixed order.
__global__ void __launch_bounds__(sum_threads)
    sum_losses_kernel(const float* losses, const int32_t* labels, int64_t tokens, double* totals) {
  __shared__ double loss_sums[sum_warps];
  __shared__ double label_sums[sum_warps];
  double loss = 0;
  double counted = 0;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < tokens; i += sum_threads) {
    loss += double{losses[i]};
    counted += labels[i] == ignored_label ? 0 : 1;
  }
  loss = block_reduce(loss, loss_sums, Add{});
  counted = block_reduce(counted, label_sums, Add{});
  if (threadIdx.x == 0) {
    totals[0] += loss;
    totals[1] += counted;
  }
}

}  // namespace

void cross_entropy(Stream& stream, const CrossEntropy& args) {
  const int64_t rows = args.logits.dim(0);
  const int64_t columns = args.logits.dim(1);
  if (rows == 0) {
    return;
  }
  with_element(args.logits.dtype(), "cross_entropy", [&](auto element) {
    using T = decltype(element);
    with_width(are_aligned(args.logits), [&](auto width) {
      const int64_t warps = std::clamp<int64_t>(columns / (width() * warp_size), 1, max_warps);
      cross_entropy_kernel<T, width()>
          <<<unsigned(rows), unsigned(warps * warp_size), 0, native(stream)>>>(
              elements_of<int32_t>(args.labels), rows_of<T>(args.logits),
              float(args.gradient_scale), elements_of<float>(args.losses), columns);
      check_launch("cross_entropy");
    });
  });
}

void sum_losses(Stream& stream, const SumLosses& args, std::byte* /*workspace*/) {
  sum_losses_kernel<<<1, sum_threads, 0, native(stream)>>>(
      elements_of<float>(args.losses), elements_of<int32_t>(args.labels), args.losses.dim(0),
      elements_of<double>(args.totals));
  check_launch("sum_losses");
}

}  // namespace gsa::kernels::cuda
