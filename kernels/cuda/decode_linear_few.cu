// Products of a decode step for up to 8 sequences: bound by reading the weights, and by how long
// one kernel after another has nothing to read.
//
// Weights are the left operand of mma m16n8k16, 16 of their rows at a time (a *slot*: 8 gates and
// their 8 ups for swiglu), sequences the 8 columns of the right one. The depth K is cut into 8
// parts, a warp each, whatever the batch: a sequence's sums have one order.
//
//   cluster 1    a block has a share of the outputs; its 8 warps are the parts
//   cluster c    inputs too large for one block: c blocks have a share of the outputs, a block 8/c
//                of the parts, and so 1/c of the input in its shared memory; c slots side by side
//
// A lane takes 8 neighbours along K, 16 bytes, of two rows: they serve as the four columns of two
// products, in another order than the tensor core's but the same for both operands. So weights go
// from memory straight to registers; a warp has 8 steps of 32 columns on their way at any time, 64
// KB a multiprocessor. Two blocks fit there: the next kernel's loads are under way, too, while this
// one ends.
//
// Shared memory: the input's columns of this block times the norm's weight, in bfloat16 (rows 64
// bytes off a multiple of 128: no conflicts); the warps' partial sums of two rounds.
#include <algorithm>

#include "kernels/cuda/decode_linear.h"

namespace gsa::kernels::cuda::decode {
namespace {

constexpr int parts = 8;
constexpr int threads = parts * warp_size;
constexpr int step_columns = 32;
constexpr int step_vectors = step_columns / vector_width;
constexpr int ring = 8;  // steps that a warp has on their way
constexpr int slot_rows = 16;
constexpr int partial_floats = parts * slot_rows * few_rows;  // of a round
constexpr int max_shared_bytes = 112 << 10;                   // two blocks a multiprocessor

// Steps of 32 columns that come before a part.
__host__ __device__ inline int first_step(int steps, int part) {
  return steps * part / parts;
}

__host__ __device__ inline int input_row_bytes(int columns, int cluster) {
  constexpr int banks_bytes = 128;
  const int steps = (columns / step_columns + cluster - 1) / cluster;
  const int bytes = steps * step_columns * int(sizeof(bfloat16));
  return (bytes + banks_bytes - 1) / banks_bytes * banks_bytes + banks_bytes / 2;
}

// The sequences' rows come first.
struct SharedLayout {
  int row_bytes;  // of each
  int norm;       // offset of the norm's weight, as a row of the input
  int partial;    // offset: [2 rounds][parts / cluster][cluster * slot_rows][few_rows]
  int squares;    // offset: [rows][parts / cluster], sums of squares
  int bytes;

  __host__ __device__ SharedLayout(int rows, int columns, int cluster, bool has_norm) {
    row_bytes = input_row_bytes(columns, cluster);
    norm = rows * row_bytes;
    partial = norm + (has_norm ? row_bytes : 0);
    squares = partial + 2 * partial_floats * int(sizeof(float));
    bytes = squares + rows * (parts / cluster) * int(sizeof(float));
  }
};

__device__ inline float warp_sum(float value) {
#pragma unroll
  for (int lanes = warp_size / 2; lanes > 0; lanes /= 2) {
    value += __shfl_xor_sync(~0U, value, lanes);
  }
  return value;
}

// Weights are read once: they go past the L1 cache.
__device__ inline uint4 load_weights(const bfloat16* source, bool exists) {
  uint4 data{0, 0, 0, 0};
  if (exists) {
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(data.x), "=r"(data.y), "=r"(data.z), "=r"(data.w)
                 : "l"(source));
  }
  return data;
}

// Where a lane finds the weights of a slot: its row in the upper and in the lower half.
struct SlotRows {
  uint32_t upper;
  uint32_t lower;
  bool has_upper;
  bool has_lower;

  __device__ SlotRows(const LinearArgs& args, Span slot, int column, int lane) {
    const int row = slot.begin + lane / 4;
    const bool gated = args.up_offset != 0;
    upper = uint32_t(row) * uint32_t(args.columns) + uint32_t(column + lane % 4 * vector_width);
    lower = upper + (gated ? uint32_t(args.up_offset) : 8U * uint32_t(args.columns));
    has_upper = row < slot.end;
    has_lower = gated ? has_upper : row + 8 < slot.end;
  }
};

// Which part of the work a warp has.
struct WarpPlace {
  int rank;         // of its block in the cluster
  int block_parts;  // of each block
  int part;         // in the block
  int side;         // which of the slots that go side by side
  int begin;        // the part's first step
  int steps;
  int offset;  // of the part's first column in the block's input
  int cluster;
  int rounds;
  Parts slots;  // of the cluster's outputs

  __device__ WarpPlace(const LinearArgs& args, int warp)
      : rank(args.cluster > 1 ? cluster_rank() : 0),
        block_parts(parts / args.cluster),
        part(warp % block_parts),
        side(warp / block_parts),
        cluster(args.cluster),
        slots({0, 0}, 1) {
    const int all_steps = args.columns / step_columns;
    const int first = rank * block_parts;
    begin = first_step(all_steps, first + part);
    steps = first_step(all_steps, first + part + 1) - begin;
    offset = (begin - first_step(all_steps, first)) * step_columns;
    const unsigned clusters = gridDim.x / unsigned(cluster);
    const Span own =
        Parts({0, args.outputs}, int(clusters)).part(int(blockIdx.x / unsigned(cluster)));
    const unsigned slot_outputs = args.up_offset != 0 ? slot_rows / 2 : slot_rows;
    const unsigned round_outputs = slot_outputs * unsigned(cluster);
    rounds = int((unsigned(own.size()) + round_outputs - 1) / round_outputs);
    slots = Parts(own, max(rounds, 1) * cluster);
  }
  __device__ Span slot(int round, int of_side) const {
    return round < rounds ? slots.part(round * cluster + of_side) : Span{0, 0};
  }
};

// The norm's weight for the block's columns to shared memory: no kernel in front writes it.
__device__ inline void stage_norm(const LinearArgs& args, const WarpPlace& place, bfloat16* target,
                                  int lane) {
  using Piece = Vector<bfloat16, vector_width>;
  const bfloat16* source = args.norm_weight + place.begin * step_columns;
  for (int v = lane; v < place.steps * step_vectors; v += warp_size) {
    Piece::load(source + v * vector_width).store(target + place.offset + v * vector_width);
  }
}

// The block's columns of the input, times the norm's weight, to shared memory, a warp a (sequence,
// part), `batch` sequences at a time; the sums of squares beside it.
__device__ void stage_input(const LinearArgs& args, const WarpPlace& place,
                            const SharedLayout& layout, unsigned char* shared, int lane) {
  constexpr int batch = 4;
  const auto* norm = reinterpret_cast<const bfloat16*>(shared + layout.norm);
  float* squares = reinterpret_cast<float*>(shared + layout.squares);
  for (int first = place.side; first < args.rows; first += batch * args.cluster) {
    float sums[batch] = {};
    for (int v = lane; v < place.steps * step_vectors; v += warp_size) {
      const int column = place.begin * step_columns + v * vector_width;
      const int at = place.offset + v * vector_width;
      Vector<bfloat16, vector_width> loaded[batch];
#pragma unroll
      for (int i = 0; i < batch; ++i) {
        const int row = min(first + i * args.cluster, args.rows - 1);
        loaded[i] =
            Vector<bfloat16, vector_width>::load(args.input + row * args.input_stride + column);
      }
#pragma unroll
      for (int i = 0; i < batch; ++i) {
        const int row = first + i * args.cluster;
        if (row < args.rows) {
          float x[vector_width];
          loaded[i].unpack(x);
          sums[i] += apply_norm(args, x, norm + at);
          store(reinterpret_cast<bfloat16*>(shared + row * layout.row_bytes) + at, x);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < batch; ++i) {
      const int row = first + i * args.cluster;
      const float sum = warp_sum(sums[i]);
      if (lane == 0 && row < args.rows) {
        squares[row * place.block_parts + place.part] = sum;
      }
    }
  }
}

// The residual of what a thread writes of a round, asked for while the round is computed.
__device__ inline float residual_of(const LinearArgs& args, const WarpPlace& place, int round) {
  const int row = int(threadIdx.x) % slot_rows;
  const int n = int(threadIdx.x) / slot_rows;
  const Span slot = place.slot(round, place.rank);
  const bool exists = args.residual != nullptr && slot.begin + row < slot.end && n < args.rows;
  return exists ? to_float(args.residual[n * args.residual_stride + slot.begin + row]) : 0.0F;
}

// Adds up the parts of one slot (all blocks of the cluster have some) and writes its outputs.
__device__ void finish_slot(const LinearArgs& args, const WarpPlace& place,
                            const SharedLayout& layout, unsigned char* shared, int round,
                            float residual) {
  const float* partial =
      reinterpret_cast<const float*>(shared + layout.partial) + round % 2 * partial_floats;
  const float* squares = reinterpret_cast<const float*>(shared + layout.squares);
  const bool gated = args.up_offset != 0;
  const int row = int(threadIdx.x) % slot_rows;
  const int n = int(threadIdx.x) / slot_rows;
  const Span slot = place.slot(round, place.rank);
  if (slot.begin + row >= slot.end || n >= args.rows || (gated && row >= slot_rows / 2)) {
    return;
  }
  const auto add_parts = [&](auto&& address_of) {
    float values[parts];
#pragma unroll
    for (int part = 0; part < parts; ++part) {
      const float* own = address_of(part % place.block_parts);
      values[part] = args.cluster == 1
                         ? *own
                         : load_shared_in(shared_address_in(own, part / place.block_parts));
    }
    float sum = 0.0F;
#pragma unroll
    for (int part = 0; part < parts; ++part) {
      sum += values[part];
    }
    return sum;
  };
  const auto product = [&](int of_row) {
    return add_parts([&](int part) {
      return partial + ((part * args.cluster + place.rank) * slot_rows + of_row) * few_rows + n;
    });
  };
  const float inverse = inverse_rms(
      args, add_parts([&](int part) { return squares + n * place.block_parts + part; }));
  float y = product(row) * inverse;
  if (gated) {
    y = swish(y) * (product(row + slot_rows / 2) * inverse);
  }
  write_output(args, n, slot.begin + row, y + residual);
}

__device__ inline void barrier(int cluster) {
  if (cluster > 1) {
    cluster_arrive();
    cluster_wait();
  } else {
    __syncthreads();
  }
}

__global__ void __launch_bounds__(threads, 2) few_kernel(const LinearArgs args) {
  extern __shared__ __align__(128) unsigned char shared[];
  let_next_start();
  const int lane = int(threadIdx.x) % warp_size;
  const WarpPlace place(args, int(threadIdx.x) / warp_size);
  const int column = place.begin * step_columns;
  uint4 upper[ring];
  uint4 lower[ring];
  const auto ask = [&](int i, const SlotRows& rows, int step) {
    const uint32_t along = uint32_t(step * step_columns);
    const bool exists = step < place.steps;
    upper[i] = load_weights(args.weight + (rows.upper + along), exists && rows.has_upper);
    lower[i] = load_weights(args.weight + (rows.lower + along), exists && rows.has_lower);
  };
  SlotRows rows(args, place.slot(0, place.side), column, lane);
#pragma unroll
  for (int i = 0; i < ring; ++i) {
    ask(i, rows, i);
  }
  const SharedLayout layout(args.rows, args.columns, args.cluster, args.norm_weight != nullptr);
  if (args.norm_weight != nullptr) {
    stage_norm(args, place, reinterpret_cast<bfloat16*>(shared + layout.norm), lane);
  }

  wait_for_previous();
  stage_input(args, place, layout, shared, lane);
  barrier(args.cluster);

  const LanePlace corner(lane);
  const int n = lane / 4;
  const unsigned char* input = shared + min(n, args.rows - 1) * layout.row_bytes +
                               (place.offset + lane % 4 * vector_width) * int(sizeof(bfloat16));
  for (int round = 0; round < place.rounds; ++round) {
    const SlotRows next(args, place.slot(round + 1, place.side), column, lane);
    const float residual = residual_of(args, place, round);
    float sums[4] = {};
    for (int base = 0; base < place.steps; base += ring) {
      const bool last = base + ring >= place.steps;
      const SlotRows from = last ? next : rows;
      const int from_step = last ? 0 : base + ring;
#pragma unroll
      for (int i = 0; i < ring; ++i) {
        if (base + i < place.steps) {
          uint4 x{0, 0, 0, 0};
          if (n < args.rows) {
            x = *reinterpret_cast<const uint4*>(input +
                                                (base + i) * step_columns * int(sizeof(bfloat16)));
          }
          const uint32_t first[4] = {upper[i].x, lower[i].x, upper[i].y, lower[i].y};
          const uint32_t second[4] = {upper[i].z, lower[i].z, upper[i].w, lower[i].w};
          multiply_tile(sums, first, x.x, x.y);
          multiply_tile(sums, second, x.z, x.w);
        }
        ask(i, from, from_step + i);
      }
    }
    rows = next;
    float* partial =
        reinterpret_cast<float*>(shared + layout.partial) + round % 2 * partial_floats +
        ((place.part * args.cluster + place.side) * slot_rows + corner.row) * few_rows +
        corner.column;
    *reinterpret_cast<float2*>(partial) = make_float2(sums[0], sums[1]);
    *reinterpret_cast<float2*>(partial + 8 * few_rows) = make_float2(sums[2], sums[3]);
    barrier(args.cluster);
    finish_slot(args, place, layout, shared, round, residual);
  }
  if (args.cluster > 1) {
    barrier(args.cluster);  // nobody leaves while its memory is read
  }
}

// The smallest cluster with which two blocks fit a multiprocessor; 0: there is none.
int cluster_for(int64_t rows, int64_t columns) {
  for (int cluster = 1; cluster <= parts; cluster *= 2) {
    if (SharedLayout(int(rows), int(columns), cluster, true).bytes <= max_shared_bytes) {
      return cluster;
    }
  }
  return 0;
}

}  // namespace

bool takes_few(int64_t rows, int64_t columns) {
  return rows <= few_rows && columns % step_columns == 0 && cluster_for(rows, columns) > 0;
}

void run_few(Stream& stream, LinearArgs args) {
  args.cluster = cluster_for(args.rows, args.columns);
  const int slots = (args.outputs + slot_rows - 1) / slot_rows;
  const int used = std::min(clusters_of(args.cluster), std::max(1, slots));
  const SharedLayout layout(args.rows, args.columns, args.cluster, args.norm_weight != nullptr);
  launch_dependent(few_kernel,
                   {.blocks = unsigned(used * args.cluster),
                    .threads = threads,
                    .cluster = unsigned(args.cluster),
                    .shared_bytes = size_t(layout.bytes)},
                   args, stream, "decode_linear");
}

}  // namespace gsa::kernels::cuda::decode
