// Projected mode (kernels/gsa.h): swish of tiles where they lie in shared memory, its slope on the
// way out, and the gate from logits.
//
// swish(x) = h + h tanh(h) with h = x / 2, by the special-function unit's tanh: within 5e-4 |h| of
// its value, a quarter of what rounding to bfloat16 for the tensor cores may take. The instructions
// count: four an element.
#pragma once

#include "kernels/cuda/mma.h"

namespace gsa::kernels::cuda {

__device__ inline float fast_tanh(float x) {
  float y;
  asm("tanh.approx.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

// Half of a pair of bfloat16: exact.
__device__ inline float2 halves_of(uint32_t pair) {
  const __nv_bfloat162 halves =
      __hmul2(reinterpret_cast<const __nv_bfloat162&>(pair), __float2bfloat162_rn(0.5F));
  return unpack_pair(reinterpret_cast<const uint32_t&>(halves));
}

__device__ inline uint32_t swish_pair(uint32_t pair) {
  const float2 h = halves_of(pair);
  return pack_pair(h.x + h.x * fast_tanh(h.x), h.y + h.y * fast_tanh(h.y));
}

// Twice `gradient` times the slope of swish at 2 h, which is (1 + t + h (1 - t^2)) / 2 with t the
// hyperbolic tangent of h.
__device__ inline float twice_with_slope(float gradient, float h) {
  const float t = fast_tanh(h);
  return gradient + gradient * (t + h * (1.0F - t * t));
}

// A pair of gradients of swish times its slope at a pair of inputs.
__device__ inline uint32_t times_slope(uint32_t gradients, uint32_t inputs) {
  const float2 h = halves_of(inputs);
  const float2 gradient = halves_of(gradients);
  return pack_pair(twice_with_slope(gradient.x, h.x), twice_with_slope(gradient.y, h.y));
}

// Swish of 16-byte pieces in shared memory that are `distance` bytes apart, the first `existing` of
// them: all are loaded before one is stored.
template <int count>
__device__ inline void swish_pieces(uint32_t address, uint32_t distance, int existing = count) {
  uint32_t x[count][4];
#pragma unroll
  for (int i = 0; i < count; ++i) {
    if (i < existing) {
      asm volatile("ld.shared.v4.b32 {%0,%1,%2,%3}, [%4];\n"
                   : "=r"(x[i][0]), "=r"(x[i][1]), "=r"(x[i][2]), "=r"(x[i][3])
                   : "r"(address + i * distance)
                   : "memory");
    }
  }
#pragma unroll
  for (int i = 0; i < count; ++i) {
    if (i < existing) {
#pragma unroll
      for (uint32_t& pair : x[i]) {
        pair = swish_pair(pair);
      }
      asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};\n" ::"r"(address + i * distance),
                   "r"(x[i][0]), "r"(x[i][1]), "r"(x[i][2]), "r"(x[i][3])
                   : "memory");
    }
  }
}

// Swish of the pieces of a panel that this thread itself copied with copy_panel<rows, threads>:
// once wait_copies has seen them land, and before the barrier that hands them to the others, so
// that no other barrier is needed.
template <int rows, int threads>
__device__ inline void swish_panel(uint32_t panel, int thread) {
#pragma unroll
  for (int i = 0; i < rows * row_pieces / threads; ++i) {
    const int index = i * threads + thread;
    swish_pieces<1>(panel + panel_offset(index / row_pieces, index % row_pieces), 0);
  }
}

// A lane's pieces of a strip of projections, loaded ahead of the strip of gradients that
// store_strip sends through swish.
struct SwishInputs {
  uint4 pieces[lane_pieces];

  __device__ void load(const bfloat16* rows, int64_t stride, int valid_rows, int valid_columns,
                       int lane) {
    const int column = strip_piece(lane) * piece_columns;
#pragma unroll
    for (int i = 0; i < lane_pieces; ++i) {
      const int row = strip_row(i, lane);
      pieces[i] = row < valid_rows && column < valid_columns
                      ? __ldg(reinterpret_cast<const uint4*>(rows + row * stride + column))
                      : make_uint4(0, 0, 0, 0);
    }
  }
};

// A piece of gradients of swish times its slope at a piece of inputs.
__device__ inline uint4 times_swish_slope(uint4 gradients, uint4 inputs) {
  return make_uint4(times_slope(gradients.x, inputs.x), times_slope(gradients.y, inputs.y),
                    times_slope(gradients.z, inputs.z), times_slope(gradients.w, inputs.w));
}

// log sigmoid(x) to 1e-6 of its value, without overflow: the logarithm near one is a series.
__device__ inline float log_sigmoid(float x) {
  constexpr float small = 0.01F;
  const float e = __expf(-fabsf(x));
  const float series = e * (1.0F - e * (0.5F - e * (1.0F / 3)));
  return fminf(x, 0.0F) - (e < small ? series : __logf(1.0F + e));
}

}  // namespace gsa::kernels::cuda
