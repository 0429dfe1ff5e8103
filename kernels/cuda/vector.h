// Loads, conversions and stores of several elements at once. All arithmetic is float32; what lies
// in memory is float32 or bfloat16.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/alignment.h"

namespace gsa::kernels::cuda {

using bfloat16 = __nv_bfloat16;

// Elements that a thread takes at once where the memory's alignment allows: 16 bytes of bfloat16,
// twice 16 of float32. Elsewhere it takes one. Where most of what moves is float32, half as many:
// the accesses of neighbouring threads then lie side by side.
inline constexpr int vector_width = 8;
inline constexpr int float_vector_width = 4;

// A number of elements as a type.
template <int width>
using Width = std::integral_constant<int, width>;

__device__ inline float to_float(float x) {
  return x;
}
__device__ inline float to_float(bfloat16 x) {
  return __bfloat162float(x);
}
// Two neighbours of bfloat16, which are the upper halves of float32: one instruction each.
__device__ inline float2 unpack_pair(uint32_t pair) {
  return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000U)};
}
template <typename T>
__device__ inline T from_float(float x) {
  if constexpr (std::is_same_v<T, float>) {
    return x;
  } else {
    return __float2bfloat16_rn(x);
  }
}

// `width` neighbouring elements as they lie in memory.
template <typename T, int width>
struct alignas(std::min<size_t>(width * sizeof(T), access_bytes)) Vector {
  static_assert(width == 1 || width == float_vector_width || width == vector_width,
                "one element, or accesses of 8 or 16 bytes");
  T elements[width];

  __device__ static Vector load(const T* source) {
    Vector vector;
    if constexpr (width == 1) {
      vector.elements[0] = *source;
    } else {
      const auto* from = reinterpret_cast<const Access*>(source);
      auto* to = reinterpret_cast<Access*>(vector.elements);
#pragma unroll
      for (int i = 0; i < accesses; ++i) {
        to[i] = from[i];
      }
    }
    return vector;
  }

  __device__ void store(T* target) const {
    if constexpr (width == 1) {
      *target = elements[0];
    } else {
      const auto* from = reinterpret_cast<const Access*>(elements);
      auto* to = reinterpret_cast<Access*>(target);
#pragma unroll
      for (int i = 0; i < accesses; ++i) {
        to[i] = from[i];
      }
    }
  }

  __device__ void unpack(float (&x)[width]) const {
    if constexpr (width == 1 || std::is_same_v<T, float>) {
#pragma unroll
      for (int i = 0; i < width; ++i) {
        x[i] = to_float(elements[i]);
      }
    } else {
      const auto* pairs = reinterpret_cast<const uint32_t*>(elements);
#pragma unroll
      for (int i = 0; i < width / 2; ++i) {
        const float2 pair = unpack_pair(pairs[i]);
        x[2 * i] = pair.x;
        x[2 * i + 1] = pair.y;
      }
    }
  }

  __device__ static Vector pack(const float (&x)[width]) {
    Vector vector;
    if constexpr (width == 1 || std::is_same_v<T, float>) {
#pragma unroll
      for (int i = 0; i < width; ++i) {
        vector.elements[i] = from_float<T>(x[i]);
      }
    } else {
      auto* pairs = reinterpret_cast<__nv_bfloat162*>(vector.elements);
#pragma unroll
      for (int i = 0; i < width / 2; ++i) {
        pairs[i] = __floats2bfloat162_rn(x[2 * i], x[2 * i + 1]);
      }
    }
    return vector;
  }

 private:
  using Access = std::conditional_t<sizeof(elements) % access_bytes == 0, uint4, uint2>;
  static constexpr int accesses = int(sizeof(elements) / sizeof(Access));
};

template <int width, typename T>
__device__ inline void load(const T* source, float (&x)[width]) {
  Vector<T, width>::load(source).unpack(x);
}

template <int width, typename T>
__device__ inline void store(T* target, const float (&x)[width]) {
  Vector<T, width>::pack(x).store(target);
}

// A matrix with strided rows, as kernels take it.
template <typename T>
struct Rows {
  T* data = nullptr;
  int64_t stride = 0;

  __host__ __device__ explicit operator bool() const { return data != nullptr; }
  __device__ T* at(int64_t row, int64_t column) const { return data + row * stride + column; }
};

// 1 / (1 + e^-x), to a few units in the last place of float32. Four instructions: numbers too small
// to be normal are zero on the way, which 1 + e^-x does not see.
__device__ inline float sigmoid(float x) {
  constexpr float minus_log2_e = -1.44269504F;
  float power;
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x * minus_log2_e));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(1.0F + power));
  return result;
}

// d swish / dx at x, where s = sigmoid(x).
__device__ inline float swish_slope(float x, float s) {
  return s * (1.0F + x * (1.0F - s));
}

}  // namespace gsa::kernels::cuda
