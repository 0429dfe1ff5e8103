// kernels/cuda/vector.h on the emulator (tests/kernels/emulated/emulator.h), and CUDA's words.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "tests/kernels/emulated/emulator.h"

#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __grid_constant__
#define threadIdx (gsa::emulated::current().thread)
#define blockIdx (gsa::emulated::current().block_number)
#define gridDim (gsa::emulated::Index{gsa::emulated::blocks_of_grid()})

struct float2 {
  float x, y;
};
struct float4 {
  float x, y, z, w;
};
struct uint4 {
  uint32_t x, y, z, w;
};

inline void __syncthreads() {
  gsa::emulated::arrive_at(gsa::emulated::current().block->numbered[0],
                           gsa::emulated::threads_of_block(), true, "its block");
}
inline void __stcs(float4* target, const float4& x) {
  *target = x;
}

inline int __float_as_int(float x) {
  return std::bit_cast<int>(x);
}
inline float __int_as_float(int x) {
  return std::bit_cast<float>(x);
}

// Threads run one at a time.
inline int atomicAdd(int* to, int x) {
  const int before = *to;
  *to += x;
  return before;
}

namespace gsa::kernels::cuda {

using std::max;
using std::min;

struct bfloat16 {
  uint16_t bits = 0;
};
inline float to_float(float x) {
  return x;
}
inline float to_float(bfloat16 x) {
  return std::bit_cast<float>(uint32_t{x.bits} << 16);
}
// Rounds to the nearest, of two to the even one.
inline bfloat16 to_bfloat16(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  constexpr uint32_t half = 0x7fff;
  return {uint16_t((bits + half + (bits >> 16 & 1)) >> 16)};
}

template <typename T>
T from_float(float x) {
  if constexpr (std::is_same_v<T, float>) {
    return x;
  } else {
    return to_bfloat16(x);
  }
}

template <typename T>
struct Rows {
  T* data = nullptr;
  int64_t stride = 0;

  explicit operator bool() const { return data != nullptr; }
  T* at(int64_t row, int64_t column) const { return data + row * stride + column; }
};

inline float sigmoid(float x) {
  return 1.0F / (1.0F + std::exp(-x));
}

}  // namespace gsa::kernels::cuda
