// Products inside a decode step's kernel: how weights are copied, multiplied, and sums finished.
//
// A product's units (8 rows of weights) go round the blocks, and go on with the next operation
// where the last one ended: blocks read equally much. 8 warps share a unit's depth, in a fixed way:
// a sequence's sums have one order in every batch and on every GPU. Weights are the left operand of
// mma m16n8k16, sequences the 8 columns of the right one. A lane takes 8 neighbours along K of one
// row, 16 bytes, as they lie: the tensor core sees elements 0, 1, 4, 5 as row r and 2, 3, 6, 7 as
// row r + 8. One product with elements 0, 1, 4, 5 of the input gives half of the sum in row r,
// another one with the rest gives the other half in row r + 8. The input stays in registers. Each
// warp leaves a unit's sums in shared memory, and two warps add those up, apply what is behind the
// product and write the outputs while the 8 go on.
#pragma once

#include "kernels/cuda/decode_step.h"

namespace gsa::kernels::cuda::decode {

inline constexpr int half_rows = unit_rows / halves;

__device__ inline int chunks_of(int columns) {
  return int(unsigned(columns + chunk_columns - 1) / chunk_columns);
}

// Half chunks (16 KB) that are being copied at a time. More of them than the memory's latency asks
// for stand in front of whatever else the blocks want from memory: what they tell each other.
inline constexpr int most_under_way = 2;
class UnderWay {
 public:
  // Waits until one more may begin.
  __device__ void wait_for_room(StepShared& shared) {
    if (begun_ >= most_under_way) {
      wait_barrier(shared_address(&shared.weights_full[first_.slot()][half_]), first_.phase());
      if (half_ == halves - 1) {
        first_.advance();
      }
      half_ ^= 1;
    } else {
      ++begun_;
    }
  }

 private:
  int begun_ = 0;
  Cursor<ring_chunks> first_;  // the oldest that may be under way
  int half_ = 0;
};

// The copying warp: a lane a row.
__device__ void copy_weights(const Step& step, StepShared& shared, int lane) {
  const uint64_t policy = read_once();
  Cursor<ring_chunks> at;
  UnderWay under_way;
  for (int number = 0; number < step.count; ++number) {
    const Operation& operation = step.operations[number];
    if (operation.is_gsa) {
      continue;
    }
    const LinearOperation& linear = operation.linear;
    const int columns = linear.columns;
    const int rows = linear.gated ? unit_rows / 2 : unit_rows;  // outputs of a unit
    const int from = linear.gated && lane >= rows ? linear.outputs - rows : 0;
    for (int unit = first_unit(operation); unit < operation.units; unit += int(gridDim.x)) {
      const int output = unit * rows + lane % rows;
      const bool exists = lane < unit_rows && output < linear.outputs;
      const bfloat16* source = linear.weight + int64_t(unit * rows + from + lane) * columns;
      for (int column = 0; column < columns; column += chunk_columns) {
        const int bytes = min(columns - column, chunk_columns) * int(sizeof(bfloat16));
        wait_for_empty_chunk(at.slot());
#pragma unroll
        for (int half = 0; half < halves; ++half) {
          under_way.wait_for_room(shared);
          const uint32_t full = shared_address(&shared.weights_full[at.slot()][half]);
          const bool mine = exists && lane / half_rows == half;
          const int existing = __popc(__ballot_sync(~0U, mine));
          if (lane == 0) {
            arrive_expecting(full, existing * bytes);
          }
          __syncwarp();
          if (mine) {
            copy_bytes(shared_address(shared.ring[at.slot()]) + lane * chunk_row_bytes,
                       source + column, bytes, full, policy);
          }
        }
        at.advance();
      }
    }
  }
  // The last arrivals: no barrier is left half full.
  for (int chunk = 0; chunk < ring_chunks; ++chunk) {
    wait_for_empty_chunk(chunk);
  }
}

inline constexpr int tiles_at_once = 4;  // of which a warp has the weights in registers

// A lane's 8 columns of the input in a tile, as pairs: those of the first product, of the second.
struct LanePairs {
  uint32_t first[2];
  uint32_t second[2];
};

__device__ inline LanePairs pairs_of(const uint4& x) {
  return {{x.x, x.z}, {x.y, x.w}};
}

// What a lane has of the input: of each tile that its warp has a part of.
struct LaneInput {
  LanePairs x[max_tiles];
  int tiles;
};

__device__ inline uint32_t multiply_pair(uint32_t a, uint32_t b) {
  const __nv_bfloat162 product = __hmul2(reinterpret_cast<const __nv_bfloat162&>(a),
                                         reinterpret_cast<const __nv_bfloat162&>(b));
  return reinterpret_cast<const uint32_t&>(product);
}
__device__ inline uint4 multiply_pairs(const uint4& a, const uint4& b) {
  return make_uint4(multiply_pair(a.x, b.x), multiply_pair(a.y, b.y), multiply_pair(a.z, b.z),
                    multiply_pair(a.w, b.w));
}

// Half sums of products of 8 rows of weights (or of the input itself) and the input: see above.
struct UnitSums {
  float first[4] = {};
  float second[4] = {};

  __device__ void add(const uint4& rows, const LanePairs& x) {
    const uint32_t left[4] = {rows.x, rows.y, rows.z, rows.w};
    multiply_tile(first, left, x.first[0], x.first[1]);
    multiply_tile(second, left, x.second[0], x.second[1]);
  }
};

// The lane's two sums: row lane / 4, sequences lane % 4 * 2 and one more.
__device__ inline float2 total(const UnitSums& a, const UnitSums& b) {
  return make_float2((a.first[0] + a.second[2]) + (b.first[0] + b.second[2]),
                     (a.first[1] + a.second[3]) + (b.first[1] + b.second[3]));
}

// Waits for the input and takes the lane's columns of sequence lane / 4; sums of squares go to
// shared memory. The norm's weight, which nobody writes, is asked for before.
template <typename WaitForInput>
__device__ inline void load_input(const LinearOperation& linear, int rows, int warp, int lane,
                                  StepShared& shared, LaneInput& input,
                                  WaitForInput&& wait_for_input) {
  const int column = warp * warp_columns + lane % 4 * lane_columns;
  const int n = lane / 4;
  input.tiles =
      int(unsigned(linear.columns - warp * warp_columns + tile_columns - 1) / tile_columns);
  const bfloat16* source = linear.input + int64_t(n) * linear.input_stride + column;
  const auto load_tile = [&](int tile) {
    return n < rows && tile < input.tiles
               ? __ldcg(reinterpret_cast<const uint4*>(source + tile * tile_columns))
               : uint4{};
  };
  if (!linear.norm) {
    wait_for_input();
#pragma unroll
    for (int tile = 0; tile < max_tiles; ++tile) {
      input.x[tile] = pairs_of(load_tile(tile));
    }
    return;
  }
  const bool has_weight = linear.norm_weight != nullptr;
  uint4 norm[max_norm_tiles];
#pragma unroll
  for (int tile = 0; tile < max_norm_tiles; ++tile) {
    norm[tile] = uint4{};
    if (has_weight && tile < input.tiles) {
      norm[tile] =
          __ldg(reinterpret_cast<const uint4*>(linear.norm_weight + column + tile * tile_columns));
    }
  }
  wait_for_input();
  uint4 x[max_norm_tiles];
#pragma unroll
  for (int tile = 0; tile < max_norm_tiles; ++tile) {
    x[tile] = load_tile(tile);
  }
  UnitSums even;
  UnitSums odd;
#pragma unroll
  for (int tile = 0; tile < max_norm_tiles; ++tile) {
    if (tile < input.tiles) {
      (tile % 2 == 0 ? even : odd).add(x[tile], pairs_of(x[tile]));
      if (has_weight) {
        x[tile] = multiply_pairs(x[tile], norm[tile]);
      }
    }
    input.x[tile] = pairs_of(x[tile]);
  }
#pragma unroll
  for (int tile = max_norm_tiles; tile < max_tiles; ++tile) {
    input.x[tile] = LanePairs{};
  }
  const float2 products = total(even, odd);  // of sequence n with two, one of which may be itself
  if (lane % 4 == n / 2) {
    shared.squares[warp][n] = n % 2 == 0 ? products.x : products.y;
  }
}

// A multiplying warp's part in a product.
template <typename WaitForInput>
__device__ void multiply_units(const Step& step, const Operation& operation, StepShared& shared,
                               Cursor<ring_chunks>& weights, Cursor<sum_slots>& sums, int warp,
                               int lane, WaitForInput&& wait_for_input) {
  const LinearOperation& linear = operation.linear;
  LaneInput input;
  load_input(linear, step.rows, warp, lane, shared, input, wait_for_input);
  const int chunks = chunks_of(linear.columns);
  const int offset = lane / 4 * chunk_row_bytes +
                     (warp * warp_columns + lane % 4 * lane_columns) * int(sizeof(bfloat16));
  // Counted from zero, places lie in a uniform register: others are rare here.
  const int places = operation.units - first_unit(operation);
  for (int place = 0; place < places; place += int(gridDim.x)) {
    UnitSums even;
    UnitSums odd;
#pragma unroll
    for (int chunk = 0; chunk * chunk_tiles < max_tiles; ++chunk) {
      if (chunk < chunks) {
        wait_barrier(shared_address(&shared.weights_full[weights.slot()][0]), weights.phase());
        wait_barrier(shared_address(&shared.weights_full[weights.slot()][1]), weights.phase());
        const unsigned char* source = shared.ring[weights.slot()] + offset;
#pragma unroll
        for (int begin = 0; begin < chunk_tiles; begin += tiles_at_once) {
          uint4 w[tiles_at_once];
#pragma unroll
          for (int i = 0; i < tiles_at_once; ++i) {
            if (chunk * chunk_tiles + begin + i < input.tiles) {
              w[i] = *reinterpret_cast<const uint4*>(source + (begin + i) * tile_columns *
                                                                  int(sizeof(bfloat16)));
            }
          }
#pragma unroll
          for (int i = 0; i < tiles_at_once; ++i) {
            const int tile = chunk * chunk_tiles + begin + i;
            if (tile < max_tiles && tile < input.tiles) {
              (i % 2 == 0 ? even : odd).add(w[i], input.x[tile]);
            }
          }
        }
        tell_chunk_empty(weights.slot());
        weights.advance();
      }
    }
    wait_barrier(shared_address(&shared.sums_empty[sums.slot()]), sums.phase() ^ 1);
    // Lanes' pairs of sums, four to a row of eight sequences, lie side by side.
    reinterpret_cast<float2*>(shared.sums[sums.slot()][warp])[lane] = total(even, odd);
    tell_sums_full(sums.slot());
    sums.advance();
  }
}

// Sums over the multiplying warps, in a fixed order.
template <int stride>
__device__ inline float add_warps(const float* first) {
  float parts[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    parts[i] = first[i * stride];
  }
#pragma unroll
  for (int warp = 4; warp < multiply_warps; ++warp) {
    parts[warp % 4] += first[warp * stride];
  }
  return (parts[0] + parts[1]) + (parts[2] + parts[3]);
}

// The finishing warps' part in a product: a thread has an output of the unit and a sequence.
__device__ void finish_units(const Step& step, const Operation& operation, StepShared& shared,
                             Cursor<sum_slots>& sums, int thread) {
  const LinearOperation& linear = operation.linear;
  const int n = thread % step_rows;
  const int row = thread / step_rows;
  const int unit_outputs = linear.gated ? unit_rows / 2 : unit_rows;
  const bool has_place = row < unit_outputs && n < step.rows;
  float inverse = 1.0F;
  bool first = true;
  for (int unit = first_unit(operation); unit < operation.units; unit += int(gridDim.x)) {
    const int output = unit * unit_outputs + row;
    const bool exists = has_place && output < linear.outputs;
    float y = 0.0F;
    float residual = 0.0F;
    if (exists && linear.residual != nullptr) {
      residual = to_float(__ldcg(linear.residual + int64_t(n) * linear.residual_stride + output));
    }
    wait_for_sums(sums.slot());
    if (first && linear.norm) {
      const float squares = add_warps<step_rows>(&shared.squares[0][n]);
      inverse = rsqrtf(__fdividef(squares, float(linear.columns)) + linear.epsilon);
    }
    first = false;
    if (exists) {
      const float* own = &shared.sums[sums.slot()][0][thread];
      y = add_warps<unit_sums>(own) * inverse;
      if (linear.gated) {
        y = swish(y) * (add_warps<unit_sums>(own + unit_sums / 2) * inverse);
      }
      y += residual;
    }
    arrive(shared_address(&shared.sums_empty[sums.slot()]));
    sums.advance();
    if (exists) {
      const int64_t at = int64_t(n) * linear.output_stride + output;
      if (linear.float_output) {
        static_cast<float*>(linear.output)[at] = y;
      } else {
        static_cast<bfloat16*>(linear.output)[at] = from_float<bfloat16>(y);
      }
    }
  }
}

}  // namespace gsa::kernels::cuda::decode
