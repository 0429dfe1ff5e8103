// kernels/cuda/reduce.h on the emulator: sums and maxima of a warp.
#pragma once

#include "kernels/cuda/async_copy.h"

namespace gsa::kernels::cuda {

struct Add {
  float operator()(float a, float b) const { return a + b; }
};
struct Max {
  float operator()(float a, float b) const { return std::fmax(a, b); }
};

template <typename Combine>
float warp_reduce(float value, Combine combine) {
  emulated::Warp& warp = *emulated::current().warp;
  const auto lane = size_t(threadIdx.x) % warp_size;
  for (size_t lanes = warp_size / 2; lanes > 0; lanes /= 2) {
    warp.operands[lane][0] = std::bit_cast<uint32_t>(value);
    __syncwarp();
    const float other = std::bit_cast<float>(warp.operands[lane ^ lanes][0]);
    __syncwarp();
    value = combine(value, other);
  }
  return value;
}

}  // namespace gsa::kernels::cuda
