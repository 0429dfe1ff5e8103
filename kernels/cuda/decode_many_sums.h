// The end of a product inside the kernel of a decode step of many sequences: each block of a group
// leaves its part's sums in working memory, where the input was, and adds up those of its own
// sequences from all blocks.
#pragma once

#include "kernels/cuda/decode_many.h"

namespace gsa::kernels::cuda::decode {

// Where a unit's sum of a weight's row and a sequence lies: rows of eight change places, so that
// the lanes of an accumulator tile write to different banks.
__device__ inline int sum_place(int row, int n) {
  return n * many_unit_rows + (row ^ (n / 2 % 4 * 8));
}

// Leaves a unit's sums in working memory.
__device__ inline void leave_sums(float* target, const float (&sums)[column_tiles][4]) {
  const LanePlace place(int(threadIdx.x) % warp_size);
  const int row = int(threadIdx.x) % warpgroup_threads / warp_size * strip_rows + place.row;
#pragma unroll
  for (int tile = 0; tile < column_tiles; ++tile) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      target[sum_place(row + e / 2 * 8, tile * 8 + place.column + e % 2)] = sums[tile][e];
    }
  }
}

// Four neighbouring numbers.
using Four = float[4];

__device__ inline void load_residual(const LinearOperation& linear, int n, int output,
                                     Four& residual) {
  const uint2 packed = __ldcg(reinterpret_cast<const uint2*>(
      linear.residual + int64_t(n) * linear.residual_stride + output));
  const float2 low = unpack_pair(packed.x);
  const float2 high = unpack_pair(packed.y);
  residual[0] = low.x;
  residual[1] = low.y;
  residual[2] = high.x;
  residual[3] = high.y;
}

__device__ inline void write_outputs(const LinearOperation& linear, int n, int output,
                                     const Four& y) {
  const int64_t at = int64_t(n) * linear.output_stride + output;
  if (linear.float_output) {
    *reinterpret_cast<float4*>(static_cast<float*>(linear.output) + at) =
        make_float4(y[0], y[1], y[2], y[3]);
  } else {
    *reinterpret_cast<uint2*>(static_cast<bfloat16*>(linear.output) + at) =
        make_uint2(pack_pair(y[0], y[1]), pack_pair(y[2], y[3]));
  }
}

// Adds up the sums of the block's own sequences over all `split` parts, in their order, and writes
// their outputs, four neighbours a thread at a time.
template <int split>
__device__ void finish_sums(const ManyStep& step, const ManyOperation& operation,
                            const UnitPlace& units, int part, const ManyShared& shared) {
  constexpr int own = many_rows / split;
  const LinearOperation& linear = operation.linear;
  const int unit_outputs = linear.gated ? many_unit_rows / 2 : many_unit_rows;
  const int quad_bits = linear.gated ? 3 : 4;  // quads of a unit's outputs: 8 or 16
  const int first_rank = cluster_rank() - part;
  uint32_t sums[split];
  uint32_t squares[split];
#pragma unroll
  for (int of = 0; of < split; ++of) {
    sums[of] = shared_address_in(shared.work, first_rank + of);
    squares[of] = shared_address_in(shared.fixed->squares, first_rank + of);
  }
  const auto add = [&](int unit, int row, int n, Four& y) {
    const uint32_t offset =
        uint32_t(unit * unit_sums_bytes) + uint32_t(sum_place(row, n)) * uint32_t(sizeof(float));
    float4 parts[split];
#pragma unroll
    for (int of = 0; of < split; ++of) {
      parts[of] = load_shared4_in(sums[of] + offset);
    }
    y[0] = y[1] = y[2] = y[3] = 0.0F;
#pragma unroll
    for (int of = 0; of < split; ++of) {
      y[0] += parts[of].x;
      y[1] += parts[of].y;
      y[2] += parts[of].z;
      y[3] += parts[of].w;
    }
  };
  for (int at = int(threadIdx.x); at < (units.count * own) << quad_bits; at += taking_threads) {
    const int quad = at & ((1 << quad_bits) - 1);
    const int n = part * own + (at >> quad_bits) % own;
    const int i = (at >> quad_bits) / own;
    const int output = units.unit(i) * unit_outputs + quad * 4;
    if (n >= step.rows || output >= linear.outputs) {
      continue;
    }
    Four residual = {};
    if (linear.residual != nullptr) {
      load_residual(linear, n, output, residual);
    }
    float inverse = 1.0F;
    if (linear.norm) {
      float parts[split];
#pragma unroll
      for (int of = 0; of < split; ++of) {
        parts[of] = load_shared_in(squares[of] + uint32_t(n) * uint32_t(sizeof(float)));
      }
      float sum = 0.0F;
#pragma unroll
      for (int of = 0; of < split; ++of) {
        sum += parts[of];
      }
      inverse = rsqrtf(__fdividef(sum, float(linear.columns)) + linear.epsilon);
    }
    Four y;
    if (linear.gated) {
      const int row = quad / 2 * 16 + quad % 2 * 4;
      Four up;
      add(i, row, n, y);
      add(i, row + 8, n, up);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        y[e] = swish(y[e] * inverse) * (up[e] * inverse);
      }
    } else {
      add(i, quad * 4, n, y);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        y[e] = y[e] * inverse + residual[e];
      }
    }
    write_outputs(linear, n, output, y);
  }
}

}  // namespace gsa::kernels::cuda::decode
