// States at every chunk's boundary: K and V forward, their gradients backward.
//
//   state[m, d] = e^{b_end[m]} state[m, d] + sum over the chunk's tokens t of w[t, m] x[t, d]
//   forward: w = s e^(b_end - b), x = k or v;  reverse: w = r e^b, x = q or dO
//   projected: q, k and v are swish of the rows that come, applied where they land
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

// What a block works on: a head of a sequence, and 64 dimensions of its keys or values.
template <int slots>
struct ScanBlock {
  using Tiles = ScanTiles<slots>;
  const GsaScanArgs& args;
  const GsaScanPart& part;
  int sequence;
  int head;
  int column;  // first of 64
  int thread;
  uint32_t shared;
  int first_chunk;
  int begin;  // first token
  int length;
  int chunks;

  __device__ ScanBlock(const GsaScanArgs& scan, const GsaScanPart& of_part, int slice,
                       const unsigned char* memory)
      : args(scan),
        part(of_part),
        sequence(static_cast<int>(blockIdx.z)),
        head(static_cast<int>(blockIdx.y)),
        column(slice * panel_columns),
        thread(static_cast<int>(threadIdx.x)),
        shared(shared_address(memory)),
        first_chunk(chunks_before(scan.offsets, sequence, thread % warp_size)),
        begin(scan.offsets[sequence]),
        length(scan.offsets[sequence + 1] - begin),
        chunks((length + chunk_rows - 1) / chunk_rows) {}

  // The i-th chunk of the walk.
  __device__ int chunk_at(int i) const { return args.reverse ? chunks - 1 - i : i; }
  __device__ uint32_t stage(int i) const {
    return shared + uint32_t(i % stages * Tiles::stage_bytes);
  }
  // Begins copying the i-th chunk's weights and rows, if there is one.
  __device__ void fetch(int i) const {
    if (i < chunks) {
      const int chunk = chunk_at(i);
      const int weight_head = head / (args.heads / args.weight_heads);
      const int row_head = head / (args.heads / args.row_heads);
      const bfloat16* weights =
          part.weights +
          (int64_t(first_chunk + chunk) * args.weight_heads + weight_head) * (chunk_rows * slots);
#pragma unroll
      for (int panel = 0; panel < Tiles::weight_panels; ++panel) {
        copy_panel<chunk_rows, Tiles::threads>(stage(i) + panel * panel_bytes,
                                               weights + panel * panel_columns, slots, chunk_rows,
                                               panel_columns, thread);
      }
      copy_panel<chunk_rows, Tiles::threads>(
          stage(i) + Tiles::weight_panels * panel_bytes,
          part.rows.at(begin + chunk * chunk_rows, row_head) + column, part.rows.stride,
          length - chunk * chunk_rows, part.rows.dim - column, thread);
    }
    commit_copies();
  }
  // Once the i-th chunk has landed, before the barrier: swish of the rows that this thread copied.
  __device__ void activate(int i) const {
    if (part.activate) {
      swish_panel<chunk_rows, Tiles::threads>(stage(i) + Tiles::weight_panels * panel_bytes,
                                              thread);
    }
  }
  // b relative to its reference at the end of the i-th chunk.
  __device__ float end_decay(int i, int slot) const {
    if (i >= chunks) {
      return 0.0F;
    }
    const int64_t chunk = first_chunk + chunk_at(i);
    const int gate_head = head / (args.heads / args.gate_heads);
    return args
        .decay[((chunk * args.gate_heads + gate_head) * chunk_rows + chunk_rows - 1) * slots +
               slot];
  }
  // Where the state before the i-th chunk goes, from `slot` on.
  __device__ bfloat16* states(int i, int slot) const {
    return part.states +
           ((int64_t(first_chunk + chunk_at(i)) * args.heads + head) * slots + slot) *
               part.padded_dim +
           column;
  }
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

template <int slots>
__device__ void load_initial(const ScanBlock<slots>& block, int slot, int lane_column,
                             StripAccumulator& state) {
  clear(state, panel_tiles);
  if (block.part.initial == nullptr) {
    return;
  }
#pragma unroll
  for (int tile = 0; tile < panel_tiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int m = slot + i / 2 * 8;
      const int d = block.column + tile * 8 + lane_column + i % 2;
      if (m < block.args.slots && d < block.part.rows.dim) {
        state[tile][i] =
            block.part
                .initial[state_index(block.args, block.part, block.sequence, block.head, m, d)];
      }
    }
  }
}

// Query heads that share the state get a copy each.
template <int slots>
__device__ void store_final(const ScanBlock<slots>& block, int slot, int lane_column,
                            const StripAccumulator& state) {
  if (block.part.final == nullptr) {
    return;
  }
  const int copies = block.args.query_heads / block.args.heads;
  for (int copy = 0; copy < copies; ++copy) {
#pragma unroll
    for (int tile = 0; tile < panel_tiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int m = slot + i / 2 * 8;
        const int d = block.column + tile * 8 + lane_column + i % 2;
        if (m < block.args.slots && d < block.part.rows.dim) {
          block.part.final[state_index(block.args, block.part, block.sequence,
                                       block.head * copies + copy, m, d)] = state[tile][i];
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
  const int slice = static_cast<int>(blockIdx.x);
  const int key_slices = args.keys.padded_dim / panel_columns;
  const bool is_keys = slice < key_slices;
  const ScanBlock<slots> block(args, is_keys ? args.keys : args.values,
                               is_keys ? slice : slice - key_slices, memory);
  const int lane = block.thread % warp_size;
  const int strip = block.thread / warp_size * strip_rows;
  const LanePlace place(lane);
  const int slot = strip + place.row;  // and slot + 8
  unsigned char* scratch = memory + Tiles::scratch + strip / strip_rows * strip_bytes;

  StripAccumulator state;
  load_initial(block, slot, place.column, state);
  block.fetch(0);
  block.fetch(1);
  float end_low = block.end_decay(0, slot);
  float end_high = block.end_decay(0, slot + 8);
  for (int i = 0; i < block.chunks; ++i) {
    wait_copies<1>();
    block.activate(i);
    __syncthreads();
    block.fetch(i + 2);
    const ScanFactors low(end_low, args.reverse);
    const ScanFactors high(end_high, args.reverse);
    end_low = block.end_decay(i + 1, slot);
    end_high = block.end_decay(i + 1, slot + 8);

    StripOperand stored;
    to_scaled_operand(stored, state, low.stored, high.stored);
    store_strip(stored, scratch, block.states(i, strip), block.part.padded_dim, strip_rows,
                panel_columns, lane);
    scale_rows(state, low.before, high.before);
    const uint32_t stage = block.stage(i);
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
  store_final(block, slot, place.column, state);
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
