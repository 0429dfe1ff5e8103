// Products of a decode step: few rows (up to 64 sequences) times a whole weight matrix, bound by
// reading the weights once.
//
// Bfloat16 on tensor cores (mma m16n8k16): weights are the left operand, 16 of their rows at a time
// (a *slot*: 8 gates and their 8 ups for swiglu), sequences the 8 columns of the right one. The
// depth K is cut into 8 parts, a warp each, whatever the batch: a sequence's sums have one order.
//
//   cluster 1 (few sequences)   a block has a share of the outputs; its 8 warps are the parts
//   cluster c = 2, 4, 8         c blocks have a share of the outputs, a block 8/c of the parts, and
//                               so 1/c of the input in its shared memory; c slots go side by side
//
// Weights go from memory to registers, 16 bytes a lane: a lane's 8 neighbours along K serve as the
// four columns of two products, in another order than the tensor core's but the same for both
// operands. A warp has `ring` steps of 32 columns on their way at any time: 64 KB a multiprocessor,
// which at 4.3 TB/s and 132 of them is what a latency of 2 us needs. The first ring is loaded
// before the kernel in front has ended, and more is asked into the L2 cache.
//
// Shared memory: the input's columns of this block times the norm's weight, in bfloat16 (rows 64
// bytes off a multiple of 128: no conflicts), and the warps' partial sums of a round of slots.
#include "kernels/backends.h"
#include "kernels/cuda/cluster.h"
#include "kernels/cuda/dependent_launch.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/mma.h"

namespace gsa::kernels::cuda {
namespace {

constexpr int parts = 8;
constexpr int threads = parts * warp_size;
constexpr int step_columns = 32;
constexpr int step_vectors = step_columns / vector_width;
constexpr int slot_rows = 16;
constexpr int tile_columns = 8;  // sequences of an accumulator tile
constexpr int max_rows = 64;
constexpr int max_input_bytes = 92 << 10;
constexpr int multiprocessors = 132;  // of an H100 or H200: a share of the outputs each

struct LinearArgs {
  const bfloat16* input;
  int64_t input_stride;
  int rows;     // B
  int columns;  // K
  DecodeNorm norm;
  const bfloat16* norm_weight;  // or null
  float epsilon;
  const bfloat16* weight;
  int64_t up_offset;         // elements from a gate's row to its up's; 0: no swiglu
  int outputs;               // N
  const bfloat16* residual;  // or null
  int64_t residual_stride;
  bfloat16* output;     // or null:
  float* float_output;  // in float32
  int64_t output_stride;
  int cluster;
  int prefetch_rows;  // of weights, by each block, into the L2 cache ahead of time
};

// Steps of 32 columns that come before a part.
__host__ __device__ inline int first_step(int steps, int part) {
  return steps * part / parts;
}

// Columns of the input that a block has, at most.
__host__ __device__ inline int block_columns(int columns, int cluster) {
  const int steps = columns / step_columns;
  return (steps + cluster - 1) / cluster * step_columns;
}

__host__ __device__ inline int input_row_bytes(int columns, int cluster) {
  constexpr int banks_bytes = 128;
  const int bytes = block_columns(columns, cluster) * int(sizeof(bfloat16));
  return (bytes + banks_bytes - 1) / banks_bytes * banks_bytes + banks_bytes / 2;
}

// Floats from a row of partial sums to the next: pairs of neighbouring rows in different banks.
template <int tiles>
constexpr int partial_stride = tiles == 1 ? tile_columns : tiles* tile_columns + tile_columns;

struct SharedLayout {
  int input;    // bytes a row
  int norm;     // offset: the norm's weight, as a row of the input
  int partial;  // offset: [parts / cluster][cluster * slot_rows][partial_stride]
  int squares;  // offset: [rows][parts / cluster], sums of squares
  int inverse;  // offset: [rows], 1 / rms
  int bytes;

  template <int tiles>
  __host__ __device__ static SharedLayout of(int rows, int columns, int cluster) {
    SharedLayout layout;
    layout.input = input_row_bytes(columns, cluster);
    layout.norm = rows * layout.input;
    layout.partial = layout.norm + layout.input;
    layout.squares =
        layout.partial + parts * slot_rows * partial_stride<tiles> * int(sizeof(float));
    layout.inverse = layout.squares + rows * (parts / cluster) * int(sizeof(float));
    layout.bytes = layout.inverse + rows * int(sizeof(float));
    return layout;
  }
};

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

__device__ inline void prefetch(const bfloat16* source, int bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;\n" ::"l"(source), "r"(bytes));
}

__device__ inline float warp_sum(float value) {
#pragma unroll
  for (int lanes = warp_size / 2; lanes > 0; lanes /= 2) {
    value += __shfl_xor_sync(~0U, value, lanes);
  }
  return value;
}

// Outputs [begin, end) that a cluster, or a slot of it, has.
struct Span {
  int begin;
  int end;
  __device__ static Span share(Span whole, int index, int count) {
    const int size = whole.end - whole.begin;
    return {whole.begin + int(int64_t(size) * index / count),
            whole.begin + int(int64_t(size) * (index + 1) / count)};
  }
};

// Where a lane finds the weights of a slot: offsets of its row in the upper and in the lower half.
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

__device__ inline void cluster_barrier(int cluster) {
  if (cluster > 1) {
    cluster_arrive();
    cluster_wait();
  } else {
    __syncthreads();
  }
}

// A warp's part of the columns that a block has in shared memory.
struct PartColumns {
  int begin;    // in the input
  int vectors;  // of 8 columns
  int offset;   // in the block's

  __device__ PartColumns(const LinearArgs& args, int first_part, int part) {
    const int steps = args.columns / step_columns;
    const int first = first_step(steps, first_part + part);
    begin = first * step_columns;
    vectors = (first_step(steps, first_part + part + 1) - first) * step_vectors;
    offset = (first - first_step(steps, first_part)) * step_columns;
  }
  // Begins copying a row to its place in shared memory.
  __device__ void copy(const bfloat16* row, unsigned char* target, int lane) const {
    const uint32_t to = shared_address(target) + uint32_t(offset) * uint32_t(sizeof(bfloat16));
    for (int v = lane; v < vectors; v += warp_size) {
      copy_piece(to + uint32_t(v) * piece_bytes, row + begin + v * vector_width, true);
    }
  }
};

// The block's columns of the input, times the norm's weight, to shared memory, a warp a (sequence,
// part); the sums of squares beside it. First everything is copied, then each lane works on what it
// has copied itself.
__device__ void stage_input(const LinearArgs& args, const SharedLayout& layout,
                            unsigned char* shared, const PartColumns& columns, int warp, int lane) {
  const int block_parts = parts / args.cluster;
  const int part = warp % block_parts;
  const int rows_apart = args.cluster;  // sequences that the warps take side by side
  for (int row = warp / block_parts; row < args.rows; row += rows_apart) {
    columns.copy(args.input + row * args.input_stride, shared + row * layout.input, lane);
  }
  commit_copies();
  wait_copies<0>();
  if (args.norm == DecodeNorm::none) {
    return;
  }
  const bfloat16* norm_weight = reinterpret_cast<const bfloat16*>(shared + layout.norm);
  float* squares = reinterpret_cast<float*>(shared + layout.squares);
  for (int row = warp / block_parts; row < args.rows; row += rows_apart) {
    float sum = 0.0F;
    for (int v = lane; v < columns.vectors; v += warp_size) {
      const int at = columns.offset + v * vector_width;
      bfloat16* place = reinterpret_cast<bfloat16*>(shared + row * layout.input) + at;
      float x[vector_width];
      float weight[vector_width];
      load(place, x);
      load(norm_weight + at, weight);
#pragma unroll
      for (int j = 0; j < vector_width; ++j) {
        x[j] = args.norm == DecodeNorm::swish_rms_norm ? x[j] * sigmoid(x[j]) : x[j];
        sum += x[j] * x[j];
        x[j] = args.norm_weight != nullptr ? x[j] * weight[j] : x[j];
      }
      store(place, x);
    }
    sum = warp_sum(sum);
    if (lane == 0) {
      squares[row * block_parts + part] = sum;
    }
  }
}

// 1 / rms of every sequence, from the sums of squares of all parts in order.
__device__ void find_inverse_rms(const LinearArgs& args, const SharedLayout& layout,
                                 unsigned char* shared) {
  float* inverse = reinterpret_cast<float*>(shared + layout.inverse);
  const float* squares = reinterpret_cast<const float*>(shared + layout.squares);
  const int block_parts = parts / args.cluster;
  for (int row = int(threadIdx.x); row < args.rows; row += threads) {
    float sum = 0.0F;
    for (int part = 0; part < parts; ++part) {
      sum += load_shared_in(
          shared_address_in(squares + row * block_parts + part % block_parts, part / block_parts));
    }
    inverse[row] = args.norm == DecodeNorm::none
                       ? 1.0F
                       : 1.0F / sqrtf(sum / float(args.columns) + args.epsilon);
  }
}

__device__ inline float swish(float x) {
  return x * sigmoid(x);
}

// Adds up the parts of one slot (all blocks of the cluster have some) and writes its outputs.
template <int tiles>
__device__ void finish_slot(const LinearArgs& args, const SharedLayout& layout,
                            unsigned char* shared, Span slot, int rank) {
  constexpr int width = tiles == 1 ? 1 : 4;  // sequences a thread
  const float* partial = reinterpret_cast<const float*>(shared + layout.partial);
  const float* inverse = reinterpret_cast<const float*>(shared + layout.inverse);
  const int block_parts = parts / args.cluster;
  const bool gated = args.up_offset != 0;
  const int row = int(threadIdx.x) % slot_rows;
  const int column = int(threadIdx.x) / slot_rows * width;
  const int output = slot.begin + row;
  if (output >= slot.end || column >= args.rows || (gated && row >= slot_rows / 2)) {
    return;
  }
  const auto add_parts = [&](int of_row, float(&sums)[width]) {
#pragma unroll
    for (int part = 0; part < parts; ++part) {
      const int at = ((part % block_parts) * args.cluster + rank) * slot_rows + of_row;
      const uint32_t address =
          shared_address_in(partial + at * partial_stride<tiles> + column, part / block_parts);
      if constexpr (width == 1) {
        sums[0] += load_shared_in(address);
      } else {
        const float4 four = load_shared4_in(address);
        sums[0] += four.x;
        sums[1] += four.y;
        sums[2] += four.z;
        sums[3] += four.w;
      }
    }
  };
  float sums[width] = {};
  float ups[width] = {};
  add_parts(row, sums);
  if (gated) {
    add_parts(row + slot_rows / 2, ups);
  }
#pragma unroll
  for (int i = 0; i < width; ++i) {
    const int n = column + i;
    if (n >= args.rows) {
      break;
    }
    float y = sums[i] * inverse[n];
    if (gated) {
      y = swish(y) * (ups[i] * inverse[n]);
    }
    if (args.residual != nullptr) {
      y += to_float(args.residual[n * args.residual_stride + output]);
    }
    if (args.output != nullptr) {
      args.output[n * args.output_stride + output] = from_float<bfloat16>(y);
    } else {
      args.float_output[n * args.output_stride + output] = y;
    }
  }
}

// The sums of a slot over one part, in a warp's accumulators.
template <int tiles>
struct PartSums {
  float sums[tiles][4] = {};

  // One step: `upper` and `lower` are the lane's weights, `input` its sequence's first row's.
  __device__ void add(const uint4& upper, const uint4& lower, const unsigned char* input,
                      int row_bytes, int sequence, int rows) {
    const uint32_t first[4] = {upper.x, lower.x, upper.y, lower.y};
    const uint32_t second[4] = {upper.z, lower.z, upper.w, lower.w};
#pragma unroll
    for (int i = 0; i < tiles; ++i) {
      uint4 x{0, 0, 0, 0};
      if (i * tile_columns + sequence < rows) {
        x = *reinterpret_cast<const uint4*>(input + i * tile_columns * row_bytes);
      }
      multiply_tile(sums[i], first, x.x, x.y);
      multiply_tile(sums[i], second, x.z, x.w);
    }
  }

  __device__ void store(float* partial, int lane) const {
    const LanePlace place(lane);
#pragma unroll
    for (int i = 0; i < tiles; ++i) {
      float* at = partial + place.row * partial_stride<tiles> + i * tile_columns + place.column;
      *reinterpret_cast<float2*>(at) = make_float2(sums[i][0], sums[i][1]);
      *reinterpret_cast<float2*>(at + 8 * partial_stride<tiles>) =
          make_float2(sums[i][2], sums[i][3]);
    }
  }
};

template <int tiles>
constexpr int ring_steps = tiles == 8 ? 4 : 8;

template <int tiles>
__global__ void __launch_bounds__(threads, 2) linear_kernel(const LinearArgs args) {
  extern __shared__ __align__(16) unsigned char shared[];
  constexpr int ring = ring_steps<tiles>;
  let_next_start();
  const auto layout = SharedLayout::of<tiles>(args.rows, args.columns, args.cluster);
  const int lane = int(threadIdx.x) % warp_size;
  const int warp = int(threadIdx.x) / warp_size;
  const int rank = args.cluster > 1 ? cluster_rank() : 0;
  const int block_parts = parts / args.cluster;
  const int first_part = rank * block_parts;
  const int part = warp % block_parts;
  const int side = warp / block_parts;  // which of the slots that go side by side

  const int all_steps = args.columns / step_columns;
  const int begin = first_step(all_steps, first_part + part);
  const int steps = first_step(all_steps, first_part + part + 1) - begin;
  const int padded_steps = (steps + ring - 1) / ring * ring;
  const int slot_outputs = args.up_offset != 0 ? slot_rows / 2 : slot_rows;
  const Span own =
      Span::share({0, args.outputs}, int(blockIdx.x) / args.cluster, int(gridDim.x) / args.cluster);
  const int round_outputs = slot_outputs * args.cluster;
  const int rounds = (own.end - own.begin + round_outputs - 1) / round_outputs;
  const auto slot_of = [&](int round, int of_side) {
    return Span::share(own, round * args.cluster + of_side, rounds * args.cluster);
  };
  const auto rows_of_round = [&](int round) {
    const Span slot = round < rounds ? slot_of(round, side) : Span{0, 0};
    return SlotRows(args, slot, begin * step_columns, lane);
  };

  SlotRows slot = rows_of_round(0);
  uint4 upper[ring];
  uint4 lower[ring];
  const auto load_step = [&](int j, const SlotRows& rows, int step) {
    const uint32_t along = uint32_t(step * step_columns);
    const bool exists = step < steps;
    upper[j] = load_weights(args.weight + (rows.upper + along), exists && rows.has_upper);
    lower[j] = load_weights(args.weight + (rows.lower + along), exists && rows.has_lower);
  };
#pragma unroll
  for (int j = 0; j < ring; ++j) {
    load_step(j, slot, j);
  }
  {
    // What comes after the first round, a row a thread.
    const int origin = first_step(all_steps, first_part) * step_columns;
    const int bytes = (first_step(all_steps, first_part + block_parts) * step_columns - origin) *
                      int(sizeof(bfloat16));
    const int from = rounds > 0 ? slot_of(0, args.cluster - 1).end : own.end;
    const int output = from + int(threadIdx.x);
    if (output < own.end && int(threadIdx.x) < args.prefetch_rows) {
      const bfloat16* row = args.weight + int64_t(output) * args.columns + origin;
      prefetch(row, bytes);
      if (args.up_offset != 0) {
        prefetch(row + args.up_offset, bytes);
      }
    }
  }

  const PartColumns columns(args, first_part, part);
  if (args.norm_weight != nullptr) {
    columns.copy(args.norm_weight, shared + layout.norm, lane);
  }

  wait_for_previous();
  stage_input(args, layout, shared, columns, warp, lane);
  cluster_barrier(args.cluster);
  find_inverse_rms(args, layout, shared);
  if (args.cluster > 1) {
    cluster_arrive();
  }

  float* partial = reinterpret_cast<float*>(shared + layout.partial) +
                   (part * args.cluster + side) * slot_rows * partial_stride<tiles>;
  const int sequence = lane / 4;
  const unsigned char* input =
      shared + sequence * layout.input +
      ((begin - first_step(all_steps, first_part)) * step_columns + lane % 4 * vector_width) *
          int(sizeof(bfloat16));
  for (int round = 0; round < rounds; ++round) {
    const SlotRows next = rows_of_round(round + 1);
    PartSums<tiles> sums;
    for (int base = 0; base < padded_steps; base += ring) {
      const bool last = base + ring >= padded_steps;
      const SlotRows from = last ? next : slot;
      const int from_step = last ? 0 : base + ring;
#pragma unroll
      for (int j = 0; j < ring; ++j) {
        if (base + j < steps) {
          sums.add(upper[j], lower[j], input + (base + j) * step_columns * int(sizeof(bfloat16)),
                   layout.input, sequence, args.rows);
        }
        load_step(j, from, from_step + j);
      }
    }
    slot = next;
    // The round before has been read, then this one may be.
    if (args.cluster > 1) {
      cluster_wait();
    } else {
      __syncthreads();
    }
    sums.store(partial, lane);
    cluster_barrier(args.cluster);
    finish_slot<tiles>(args, layout, shared, slot_of(round, rank), rank);
    if (args.cluster > 1) {
      cluster_arrive();
    }
  }
  if (args.cluster > 1) {
    cluster_wait();  // nobody leaves while its memory is read
  }
}

// Any sizes and types, a warp an output: float32, and what the tensor cores do not take.
template <typename T>
struct PlainArgs {
  Rows<const T> input;
  int rows;
  int columns;
  DecodeNorm norm;
  const T* norm_weight;
  float epsilon;
  const T* weight;
  int64_t up_offset;
  int outputs;
  Rows<const T> residual;
  Rows<T> output;
  Rows<float> float_output;
};

template <typename T>
__global__ void __launch_bounds__(threads) plain_kernel(const PlainArgs<T> args) {
  const int lane = int(threadIdx.x) % warp_size;
  const int output = int(blockIdx.x) * parts + int(threadIdx.x) / warp_size;
  const int row = int(blockIdx.y);
  if (output >= args.outputs) {
    return;
  }
  const T* weight = args.weight + int64_t(output) * args.columns;
  float squares = 0.0F;
  float sum = 0.0F;
  float up = 0.0F;
  for (int k = lane; k < args.columns; k += warp_size) {
    float x = to_float(*args.input.at(row, k));
    x = args.norm == DecodeNorm::swish_rms_norm ? swish(x) : x;
    squares += x * x;
    x *= args.norm_weight != nullptr ? to_float(args.norm_weight[k]) : 1.0F;
    sum += x * to_float(weight[k]);
    up += args.up_offset != 0 ? x * to_float(weight[args.up_offset + k]) : 0.0F;
  }
  const float inverse = args.norm == DecodeNorm::none
                            ? 1.0F
                            : 1.0F / sqrtf(warp_sum(squares) / float(args.columns) + args.epsilon);
  float y = warp_sum(sum) * inverse;
  up = warp_sum(up) * inverse;
  if (lane != 0) {
    return;
  }
  y = args.up_offset != 0 ? swish(y) * up : y;
  y += args.residual ? to_float(*args.residual.at(row, output)) : 0.0F;
  if (args.output) {
    *args.output.at(row, output) = from_float<T>(y);
  } else {
    *args.float_output.at(row, output) = y;
  }
}

int64_t up_offset_of(const DecodeLinear& args) {
  return args.activation == DecodeActivation::swiglu ? args.weight.count() / 2 : 0;
}

template <typename T>
void run_plain(Stream& stream, const DecodeLinear& args) {
  PlainArgs<T> plain{};
  plain.input = rows_of<T>(args.input);
  plain.rows = int(args.input.dim(0));
  plain.columns = int(args.input.dim(1));
  plain.norm = args.norm;
  plain.norm_weight = elements_of<T>(args.norm_weight);
  plain.epsilon = float(args.epsilon);
  plain.weight = elements_of<T>(args.weight);
  plain.up_offset = up_offset_of(args);
  plain.outputs = int(args.output.dim(1));
  plain.residual = rows_of<T>(args.residual);
  if (args.output.dtype() == args.input.dtype()) {
    plain.output = rows_of<T>(args.output);
  } else {
    plain.float_output = rows_of<float>(args.output);
  }
  const dim3 grid(blocks_of(plain.outputs, parts), unsigned(plain.rows));
  plain_kernel<T><<<grid, threads, 0, native(stream)>>>(plain);
  check_launch("decode_linear");
}

// The fewest blocks that a sequence's input must be cut over to fit; 0: it never does.
int cluster_of(int64_t rows, int64_t columns) {
  for (int cluster = 1; cluster <= parts; cluster *= 2) {
    if (rows * input_row_bytes(int(columns), cluster) <= max_input_bytes) {
      return cluster;
    }
  }
  return 0;
}

template <int tiles>
void run_tiles(Stream& stream, const LinearArgs& args) {
  // Clusters of four and more leave some multiprocessors of a GPU's groups of 16 or 18 unused.
  const int clusters =
      args.cluster > 2 ? (multiprocessors - 4) / args.cluster : multiprocessors / args.cluster;
  const int slots = (args.outputs + slot_rows - 1) / slot_rows;
  const int used = std::min(clusters, std::max(1, slots / args.cluster));
  const auto bytes = size_t(SharedLayout::of<tiles>(args.rows, args.columns, args.cluster).bytes);
  launch_dependent(linear_kernel<tiles>,
                   {.blocks = unsigned(used * args.cluster),
                    .threads = threads,
                    .cluster = unsigned(args.cluster),
                    .shared_bytes = bytes},
                   args, stream, "decode_linear");
}

void run_rows(Stream& stream, const LinearArgs& args) {
  if (args.rows <= tile_columns) {
    run_tiles<1>(stream, args);
  } else if (args.rows <= 2 * tile_columns) {
    run_tiles<2>(stream, args);
  } else if (args.rows <= 4 * tile_columns) {
    run_tiles<4>(stream, args);
  } else {
    run_tiles<8>(stream, args);
  }
}

bool takes_tensor_cores(const DecodeLinear& args) {
  const int64_t rows = std::min<int64_t>(args.input.dim(0), max_rows);
  return args.input.dtype() == DType::bfloat16 && args.input.dim(1) % step_columns == 0 &&
         are_aligned(args.input, args.weight, args.norm_weight) &&
         cluster_of(rows, args.input.dim(1)) != 0;
}

LinearArgs linear_args(const DecodeLinear& args) {
  LinearArgs linear{};
  linear.columns = int(args.input.dim(1));
  linear.norm = args.norm;
  linear.norm_weight = elements_of<bfloat16>(args.norm_weight);
  linear.epsilon = float(args.epsilon);
  linear.weight = elements_of<bfloat16>(args.weight);
  linear.up_offset = up_offset_of(args);
  linear.outputs = int(args.output.dim(1));
  linear.input_stride = args.input.row_stride();
  linear.residual_stride = args.residual.row_stride();
  linear.output_stride = args.output.row_stride();
  const char* text = std::getenv("GSA_DECODE_PREFETCH");
  linear.prefetch_rows = text != nullptr ? std::atoi(text) : 0;
  return linear;
}

}  // namespace

void decode_linear(Stream& stream, const DecodeLinear& args, std::byte* /*workspace*/) {
  if (args.input.dim(0) == 0 || args.output.dim(1) == 0) {
    return;
  }
  if (!takes_tensor_cores(args)) {
    with_element(args.input.dtype(), "decode_linear",
                 [&](auto element) { run_plain<decltype(element)>(stream, args); });
    return;
  }
  LinearArgs linear = linear_args(args);
  for (int64_t begin = 0; begin < args.input.dim(0); begin += max_rows) {
    const int64_t end = std::min<int64_t>(begin + max_rows, args.input.dim(0));
    const Tensor output = args.output.rows(begin, end);
    linear.rows = int(end - begin);
    linear.cluster = cluster_of(linear.rows, linear.columns);
    linear.input = rows_of<bfloat16>(args.input.rows(begin, end)).data;
    linear.residual =
        args.residual ? rows_of<bfloat16>(args.residual.rows(begin, end)).data : nullptr;
    const bool rounded = output.dtype() == DType::bfloat16;
    linear.output = rounded ? rows_of<bfloat16>(output).data : nullptr;
    linear.float_output = rounded ? nullptr : rows_of<float>(output).data;
    run_rows(stream, linear);
  }
}

}  // namespace gsa::kernels::cuda
