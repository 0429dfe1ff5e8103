// States at every chunk's boundary: K and V forward, their gradients backward.
//
//   state[m, d] = e^{b_end[m]} state[m, d] + sum over the chunk's tokens t of w[t, m] x[t, d]
//   forward: w = s e^(b_end - b), x = k or v;  reverse: w = r e^b, x = q or dO
//
// A block has one head of one sequence and 64 of its dimensions; the state [slots, 64] stays in
// registers in float32, 16 slots a warp. A chunk's weights (64 x slots) and rows (64 x 64) come
// through shared memory, `stages` chunks deep. The state before each chunk goes to memory in
// bfloat16. At B8 T2048 H4 K=V=512 M64: 512 blocks, 4 a multiprocessor; 64 MB of rows read, 134 MB
// of states written, 134 MB of weights from the L2 cache; 8.6 GFLOP.
#include "kernels/cuda/gsa_kernels.h"

namespace gsa::kernels::cuda {
namespace {

constexpr int stages = 3;

template <int slots>
struct ScanTiles {
  static constexpr int threads = slots / strip_rows * warp_size;
  static constexpr int weight_panels = slots / panel_columns;
  static constexpr int stage_bytes = (weight_panels + 1) * panel_bytes;
  static constexpr int scratch = stages * stage_bytes;
  static constexpr int memory_bytes = scratch + slots / strip_rows * strip_bytes;
  static constexpr int resident_blocks = slots == panel_columns ? 4 : 2;
};

// What a block works on.
struct ScanBlock {
  int sequence;
  int head;
  int column;  // first of 64
  int first_chunk;
  int begin;  // first token
  int length;
  int chunks;
};

// How a chunk scales a slot's state, from the last b of the chunk relative to its reference
// (GsaGates). Forward the weights are complete, and what is stored is what e^b relative to the
// reference reads. In reverse the weights are relative, and the stored gradient is complete.
struct ScanFactors {
  float stored;
  float before;  // the chunk is added
  float after;

  __device__ ScanFactors(float relative_end, bool reverse) {
    const float reference = fmaxf(relative_end, -GsaGates::factor_limit);
    stored = reverse ? 1.0F : __expf(reference);
    before = __expf(reverse ? relative_end : relative_end + reference);
    after = reverse ? __expf(reference) : 1.0F;
  }
};

// Element (slot, d) of an initial or final state of a query head.
__device__ int64_t state_index(const GsaScanArgs& args, const GsaScanPart& part, int64_t sequence,
                               int query_head, int slot, int d) {
  const int64_t state = sequence * args.query_heads + query_head;
  const int dim = part.rows.dim;
  return state * args.slots * dim +
         (part.dim_major ? int64_t(d) * args.slots + slot : int64_t(slot) * dim + d);
}

__device__ void load_initial(const GsaScanArgs& args, const GsaScanPart& part,
                             const ScanBlock& block, int slot, int lane_column,
                             StripAccumulator& state) {
  clear(state, panel_tiles);
  if (part.initial == nullptr) {
    return;
  }
#pragma unroll
  for (int tile = 0; tile < panel_tiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int m = slot + i / 2 * 8;
      const int d = block.column + tile * 8 + lane_column + i % 2;
      if (m < args.slots && d < part.rows.dim) {
        state[tile][i] = part.initial[state_index(args, part, block.sequence, block.head, m, d)];
      }
    }
  }
}

// Query heads that share the state get a copy each.
__device__ void store_final(const GsaScanArgs& args, const GsaScanPart& part,
                            const ScanBlock& block, int slot, int lane_column,
                            const StripAccumulator& state) {
  if (part.final == nullptr) {
    return;
  }
  const int copies = args.query_heads / args.heads;
  for (int copy = 0; copy < copies; ++copy) {
#pragma unroll
    for (int tile = 0; tile < panel_tiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int m = slot + i / 2 * 8;
        const int d = block.column + tile * 8 + lane_column + i % 2;
        if (m < args.slots && d < part.rows.dim) {
          part.final[state_index(args, part, block.sequence, block.head * copies + copy, m, d)] =
              state[tile][i];
        }
      }
    }
  }
}

template <int slots>
__global__ void __launch_bounds__(ScanTiles<slots>::threads, ScanTiles<slots>::resident_blocks)
    scan_kernel(const __grid_constant__ GsaScanArgs args) {
  using Tiles = ScanTiles<slots>;
  extern __shared__ __align__(1024) unsigned char memory[];
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % warp_size;
  const int strip = thread / warp_size * strip_rows;
  const LanePlace place(lane);
  const int key_slices = args.keys.padded_dim / panel_columns;
  const int slice = static_cast<int>(blockIdx.x);
  const bool is_keys = slice < key_slices;
  const GsaScanPart part = is_keys ? args.keys : args.values;

  ScanBlock block;
  block.sequence = static_cast<int>(blockIdx.z);
  block.head = static_cast<int>(blockIdx.y);
  block.column = (is_keys ? slice : slice - key_slices) * panel_columns;
  block.first_chunk = chunks_before(args.offsets, block.sequence, lane);
  block.begin = args.offsets[block.sequence];
  block.length = args.offsets[block.sequence + 1] - block.begin;
  block.chunks = (block.length + chunk_rows - 1) / chunk_rows;
  const int row_head = block.head / (args.heads / args.row_heads);
  const int weight_head = block.head / (args.heads / args.weight_heads);
  const int gate_head = block.head / (args.heads / args.gate_heads);

  const uint32_t shared = shared_address(memory);
  const auto chunk_at = [&](int i) { return args.reverse ? block.chunks - 1 - i : i; };
  const auto fetch = [&](int i) {
    if (i < block.chunks) {
      const uint32_t stage = shared + uint32_t(i % stages * Tiles::stage_bytes);
      const int chunk = chunk_at(i);
      const bfloat16* weights =
          part.weights + (int64_t(block.first_chunk + chunk) * args.weight_heads + weight_head) *
                             (chunk_rows * slots);
#pragma unroll
      for (int panel = 0; panel < Tiles::weight_panels; ++panel) {
        copy_panel<chunk_rows, Tiles::threads>(stage + panel * panel_bytes,
                                               weights + panel * panel_columns, slots, chunk_rows,
                                               panel_columns, thread);
      }
      copy_panel<chunk_rows, Tiles::threads>(
          stage + Tiles::weight_panels * panel_bytes,
          part.rows.at(block.begin + chunk * chunk_rows, row_head) + block.column, part.rows.stride,
          block.length - chunk * chunk_rows, part.rows.dim - block.column, thread);
    }
    commit_copies();
  };
  const auto end_decay = [&](int i, int slot) {
    const int64_t chunk = block.first_chunk + chunk_at(i < block.chunks ? i : 0);
    return args
        .decay[((chunk * args.gate_heads + gate_head) * chunk_rows + chunk_rows - 1) * slots +
               slot];
  };

  StripAccumulator state;
  load_initial(args, part, block, strip + place.row, place.column, state);
  fetch(0);
  fetch(1);
  float end_low = block.chunks > 0 ? end_decay(0, strip + place.row) : 0.0F;
  float end_high = block.chunks > 0 ? end_decay(0, strip + place.row + 8) : 0.0F;
  for (int i = 0; i < block.chunks; ++i) {
    wait_copies<1>();
    __syncthreads();
    fetch(i + 2);
    const ScanFactors low(end_low, args.reverse);
    const ScanFactors high(end_high, args.reverse);
    end_low = end_decay(i + 1, strip + place.row);
    end_high = end_decay(i + 1, strip + place.row + 8);

    bfloat16* states =
        part.states +
        ((int64_t(block.first_chunk + chunk_at(i)) * args.heads + block.head) * slots + strip) *
            part.padded_dim +
        block.column;
    StripOperand stored;
    to_scaled_operand(stored, state, low.stored, high.stored);
    store_strip(stored, memory + Tiles::scratch + strip / strip_rows * strip_bytes, states,
                part.padded_dim, strip_rows, panel_columns, lane);
    scale_rows(state, low.before, high.before);
    const uint32_t stage = shared + uint32_t(i % stages * Tiles::stage_bytes);
#pragma unroll
    for (int step = 0; step < panel_steps; ++step) {
      uint32_t weights[4];
      load_step_transposed(weights, stage + strip / panel_columns * panel_bytes,
                           strip % panel_columns, step, lane);
      multiply_step<PanelRows::depth>(state, weights, stage + Tiles::weight_panels * panel_bytes,
                                      step, lane);
    }
    scale_rows(state, low.after, high.after);
  }
  wait_copies<0>();
  store_final(args, part, block, strip + place.row, place.column, state);
}

}  // namespace

void launch_gsa_scan(cudaStream_t stream, const GsaSizes& sizes, int64_t sequences,
                     const GsaScanArgs& args) {
  const dim3 grid(static_cast<unsigned>((sizes.key_dim + sizes.value_dim) / gsa_tile),
                  static_cast<unsigned>(args.heads), static_cast<unsigned>(sequences));
  if (sizes.slots == gsa_tile) {
    launch_with_memory(scan_kernel<64>, grid, ScanTiles<64>::threads, ScanTiles<64>::memory_bytes,
                       stream, args, "gsa scan");
  } else {
    launch_with_memory(scan_kernel<128>, grid, ScanTiles<128>::threads,
                       ScanTiles<128>::memory_bytes, stream, args, "gsa scan");
  }
}

}  // namespace gsa::kernels::cuda
