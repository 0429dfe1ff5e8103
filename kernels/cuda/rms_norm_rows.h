// What RMSNorm's forward and backward kernels share: a thread's part of a row, and how a row is
// divided over threads.
#pragma once

#include "kernels/cuda/launch.h"
#include "kernels/cuda/reduce.h"

namespace gsa::kernels::cuda {

inline constexpr int norm_max_threads = 512;
inline constexpr int norm_max_warps = norm_max_threads / warp_size;
inline constexpr int norm_max_columns = 8192;

enum class Activation : uint8_t { none, swish };

// A thread's share of a row, as it lies in memory.
template <typename T, int width, int count>
struct Slice {
  Vector<T, width> vectors[count];

  __device__ static int column(int i) { return (i * int(blockDim.x) + int(threadIdx.x)) * width; }

  __device__ void load(const Rows<const T>& source, int64_t row, int columns) {
#pragma unroll
    for (int i = 0; i < count; ++i) {
      if (column(i) < columns) {
        vectors[i] = Vector<T, width>::load(source.at(row, column(i)));
      }
    }
  }
};

// Absent weights are ones.
template <int width, typename T>
__device__ void load_weight(const T* weight, int column, float (&w)[width]) {
  if (weight != nullptr) {
    load(weight + column, w);
  } else {
#pragma unroll
    for (int j = 0; j < width; ++j) {
      w[j] = 1.0F;
    }
  }
}
// Calls `launch` with the width, the vectors a thread and the threads for rows of `columns`: one
// vector a thread for rows of up to `single` vectors, `several` for longer ones.
template <int several, typename Launch>
void with_row(int64_t columns, bool vectorized, int64_t single, const char* what, Launch&& launch) {
  static_assert(several * norm_max_threads * vector_width >= norm_max_columns);
  if (columns > norm_max_columns) {
    throw std::invalid_argument(std::string(what) + " on CUDA takes rows of at most " +
                                std::to_string(norm_max_columns) + " (got " +
                                std::to_string(columns) + ")");
  }
  const auto threads = [](int64_t vectors, int count) {
    return blocks_of(vectors, warp_size * count) * warp_size;
  };
  const int64_t vectors = columns / vector_width;
  if (!vectorized || columns % vector_width != 0) {
    constexpr int count = norm_max_columns / norm_max_threads;
    launch(Width<1>{}, Width<count>{}, threads(columns, count));
  } else if (vectors <= single) {
    launch(Width<vector_width>{}, Width<1>{}, threads(vectors, 1));
  } else {
    launch(Width<vector_width>{}, Width<several>{}, threads(vectors, several));
  }
}

}  // namespace gsa::kernels::cuda
