// Projected mode (kernels/gsa.h): swish of tiles where they lie in shared memory, its slope on the
// way out, and the gate from logits.
//
// The special-function unit is what swish costs: an exponential an element and one reciprocal for
// four, 1 / (a b c d) times the other three. tanh.approx would be a fifth cheaper, but its error of
// 5e-4 goes the same way for equal inputs: sums over 512 dimensions do not average it out.
#pragma once

#include "kernels/cuda/mma.h"

namespace gsa::kernels::cuda {

__device__ inline float exp2_approximately(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

// Four sigmoids. Below -19 the exponential is cut off, so that the product stays finite.
__device__ inline void sigmoids(const float (&x)[4], float (&y)[4]) {
  constexpr float log2_e = 1.44269504F;
  constexpr float largest = 28.0F;
  float a[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    a[i] = 1.0F + exp2_approximately(fminf(-log2_e * x[i], largest));
  }
  const float ab = a[0] * a[1];
  const float cd = a[2] * a[3];
  const float inverse = __fdividef(1.0F, ab * cd);
  const float inverse_ab = inverse * cd;
  const float inverse_cd = inverse * ab;
  y[0] = inverse_ab * a[1];
  y[1] = inverse_ab * a[0];
  y[2] = inverse_cd * a[3];
  y[3] = inverse_cd * a[2];
}

// Four neighbours of a piece: two pairs.
__device__ inline void unpack_pairs(const uint32_t (&pairs)[2], float (&x)[4]) {
  const float2 low = unpack_pair(pairs[0]);
  const float2 high = unpack_pair(pairs[1]);
  x[0] = low.x;
  x[1] = low.y;
  x[2] = high.x;
  x[3] = high.y;
}

__device__ inline void swish_pairs(uint32_t (&pairs)[2]) {
  float x[4];
  float y[4];
  unpack_pairs(pairs, x);
  sigmoids(x, y);
  pairs[0] = pack_pair(x[0] * y[0], x[1] * y[1]);
  pairs[1] = pack_pair(x[2] * y[2], x[3] * y[3]);
}

// Swish of a 16-byte piece in shared memory.
__device__ inline void swish_piece(uint32_t address) {
  uint32_t low[2];
  uint32_t high[2];
  asm volatile("ld.shared.v4.b32 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(low[0]), "=r"(low[1]), "=r"(high[0]), "=r"(high[1])
               : "r"(address)
               : "memory");
  swish_pairs(low);
  swish_pairs(high);
  asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};\n" ::"r"(address), "r"(low[0]), "r"(low[1]),
               "r"(high[0]), "r"(high[1])
               : "memory");
}

// Swish of the pieces of a panel that this thread itself copied with copy_panel<rows, threads>:
// once wait_copies has seen them land, and before the barrier that hands them to the others, so
// that no other barrier is needed.
template <int rows, int threads>
__device__ inline void swish_panel(uint32_t panel, int thread) {
#pragma unroll
  for (int i = 0; i < rows * row_pieces / threads; ++i) {
    const int index = i * threads + thread;
    swish_piece(panel + panel_offset(index / row_pieces, index % row_pieces));
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

// Two pairs of gradients times the slope of swish at two pairs of projections.
__device__ inline void times_swish_slopes(uint32_t (&gradients)[2], const uint32_t (&inputs)[2]) {
  float x[4];
  float y[4];
  float gradient[4];
  unpack_pairs(inputs, x);
  unpack_pairs(gradients, gradient);
  sigmoids(x, y);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    gradient[i] *= swish_slope(x[i], y[i]);
  }
  gradients[0] = pack_pair(gradient[0], gradient[1]);
  gradients[1] = pack_pair(gradient[2], gradient[3]);
}

// The same of a piece.
__device__ inline uint4 times_swish_slope(uint4 gradient, uint4 at) {
  uint32_t low[2] = {gradient.x, gradient.y};
  uint32_t high[2] = {gradient.z, gradient.w};
  const uint32_t low_inputs[2] = {at.x, at.y};
  const uint32_t high_inputs[2] = {at.z, at.w};
  times_swish_slopes(low, low_inputs);
  times_swish_slopes(high, high_inputs);
  return make_uint4(low[0], low[1], high[0], high[1]);
}

// log sigmoid(x) to 1e-6 of its value, without overflow: the logarithm near one is a series.
__device__ inline float log_sigmoid(float x) {
  constexpr float small = 0.01F;
  const float e = __expf(-fabsf(x));
  const float series = e * (1.0F - e * (0.5F - e * (1.0F / 3)));
  return fminf(x, 0.0F) - (e < small ? series : __logf(1.0F + e));
}

}  // namespace gsa::kernels::cuda
