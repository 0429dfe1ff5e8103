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
  for (unsigned lanes = warp_size / 2; lanes > 0; lanes /= 2) {
    value = combine(value, __shfl_xor_sync(~0U, value, lanes));
  }
  return value;
}

}  // namespace gsa::kernels::cuda
