// What the kernels of a GSA step (gsa_decode.cu, gsa_decode_kept_step.h) share: their arguments,
// how threads lie over a state, and the softmax in the middle. In gsa_decode.cu a cluster of blocks
// has a (sequence, query head), in the other one a block.
#pragma once

#include "kernels/cuda/cluster.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/vector.h"

namespace gsa::kernels::cuda::gsa_decode_block {

inline constexpr int threads = 256;
inline constexpr int quad = 4;  // floats a thread takes at once
inline constexpr int max_cluster = 8;
inline constexpr int max_slots = 128;
inline constexpr int max_part = 128;  // columns of K or V that a block has

template <typename T>
struct DecodeArgs {
  Rows<const T> projected;
  int query_heads;
  int heads;
  int key_dim;
  int value_dim;
  int slots;
  float gate_factor;  // 1 / normalizer
  float scale;
  float* key_state;
  float* value_state;
  Rows<T> output;
  int cluster;  // blocks that share a query head, in gsa_decode.cu
};

// How threads lie over a slice of a state, [rows, columns] in quads: whole rows side by side, so
// that a thread's quads are of the same columns.
struct Slice {
  int rows;
  int quads;   // of a row
  int groups;  // rows that are taken at once
  int group;   // this thread's; groups or more: it has none
  int column;  // of its quads

  __device__ Slice(int of_rows, int columns)
      : rows(of_rows),
        quads(columns / quad),
        groups(int(unsigned(threads) / unsigned(quads))),
        group(int(threadIdx.x / unsigned(quads))),
        column((int(threadIdx.x) - group * quads) * quad) {}
  // The row of the thread's i-th quad, `rows` or more if there is none.
  __device__ int row(int i) const { return group < groups ? group + i * groups : rows; }
};

// Sums over a slice's rows: what each group has found, in shared memory, then in order.
__device__ inline void store_partial(float* partial, const Slice& slice, int columns,
                                     const float4& sum) {
  if (slice.group < slice.groups) {
    *reinterpret_cast<float4*>(partial + slice.group * columns + slice.column) = sum;
  }
}
__device__ inline float add_partial(const float* partial, const Slice& slice, int columns,
                                    int column) {
  float sum = 0.0F;
#pragma unroll 8
  for (int group = 0; group < slice.groups; ++group) {
    sum += partial[group * columns + column];
  }
  return sum;
}

__device__ inline void fma4(float4& sum, float factor, const float4& x) {
  sum.x = fmaf(factor, x.x, sum.x);
  sum.y = fmaf(factor, x.y, sum.y);
  sum.z = fmaf(factor, x.z, sum.z);
  sum.w = fmaf(factor, x.w, sum.w);
}

template <typename T>
__device__ inline float swish_of(T column) {
  const float x = to_float(column);
  return x * sigmoid(x);
}
template <typename T>
__device__ inline float log_alpha_of(T column, float gate_factor) {
  const float x = to_float(column);
  return gate_factor * (fminf(x, 0.0F) - log1pf(expf(-fabsf(x))));
}

// p = softmax(scale * u) by the first warp; sum_of(m) gives u of slot m.
template <typename SumOf>
__device__ inline void find_probabilities(int slots, float scale, float* p, SumOf&& sum_of) {
  constexpr int per_lane = max_slots / warp_size;
  float u[per_lane];
  float largest = -INFINITY;
#pragma unroll
  for (int i = 0; i < per_lane; ++i) {
    const int m = int(threadIdx.x) + i * warp_size;
    u[i] = m < slots ? scale * sum_of(m) : -INFINITY;
    largest = fmaxf(largest, u[i]);
  }
  largest = warp_reduce(largest, Max());
  float total = 0.0F;
#pragma unroll
  for (int i = 0; i < per_lane; ++i) {
    u[i] = expf(u[i] - largest);
    total += u[i];
  }
  total = warp_reduce(total, Add());
#pragma unroll
  for (int i = 0; i < per_lane; ++i) {
    const int m = int(threadIdx.x) + i * warp_size;
    if (m < slots) {
      p[m] = u[i] / total;
    }
  }
}

}  // namespace gsa::kernels::cuda::gsa_decode_block
