// Sums and maxima over the threads of a warp or a block, in an order that is always the same.
#pragma once

#include <cuda_runtime.h>

namespace gsa::kernels::cuda {

inline constexpr int warp_size = 32;
inline constexpr unsigned full_warp = 0xffffffffU;

struct Add {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};

struct Max {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

// The reduction over the warp, in every lane.
template <typename T, typename Combine>
__device__ inline T warp_reduce(T value, Combine combine) {
#pragma unroll
  for (int lanes = warp_size / 2; lanes > 0; lanes /= 2) {
    value = combine(value, __shfl_xor_sync(full_warp, value, lanes));
  }
  return value;
}

// The reduction over the block, in every thread. `shared` has a place for each warp of the block,
// and must not be written again before the next barrier has been passed. blockDim.x (times
// blockDim.y) is a multiple of the warp size.
template <typename T, typename Combine>
__device__ inline T block_reduce(T value, T* shared, Combine combine) {
  const int thread = int(threadIdx.y * blockDim.x + threadIdx.x);
  const int warps = int(blockDim.x * blockDim.y) / warp_size;
  value = warp_reduce(value, combine);
  if (thread % warp_size == 0) {
    shared[thread / warp_size] = value;
  }
  __syncthreads();
  T total = shared[0];
  for (int warp = 1; warp < warps; ++warp) {
    total = combine(total, shared[warp]);
  }
  return total;
}

}  // namespace gsa::kernels::cuda
