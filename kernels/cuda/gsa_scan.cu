// States at every chunk's boundary: K and V forward, their gradients backward.
//
//   state[m, d] = e^{b_end[m]} state[m, d] + sum over the chunk's tokens t of w[t, m] x[t, d]
//   forward: w = s e^(b_end - b), x = k or v;  reverse: w = r e^b, x = q or dO
//   projected: q, k and v are swish of the rows that come, applied where they land
//
// A block has one head of one sequence, or of a segment of it, and 64 of its dimensions; the state
// [slots, 64] stays in registers in float32, as the accumulators of a warpgroup's products: 64
// slots a warpgroup, 16 a warp. A chunk's weights (64 x slots) and rows (64 x 64) come through
// shared memory, `stages` chunks deep. The state before each chunk goes to memory in bfloat16, and
// the next chunk's rows go through swish, while the tensor cores work. At B8 T2048 H4 K=V=512 M64:
// 512 blocks, 4 a multiprocessor; 128 MB of rows read, 134 MB of states written, 134 MB of weights
// from the L2 cache; 8.6 GFLOP.
//
// By segments (GsaSegments) all this runs twice, rows read twice: first every segment from nothing,
// for what it adds to a state, then from the state that it finds: the initial one, carried through
// the segments before it. At B1 T16384: 8 segments, 512 blocks, 8 MB of states between the passes.
#include "kernels/cuda/gsa_kernels.h"
#include "kernels/cuda/wgmma.h"

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

// What a block works on: a head of a segment, and 64 dimensions of its keys or values.
template <int slots>
struct ScanBlock {
  using Tiles = ScanTiles<slots>;
  const GsaScanArgs& args;
  const GsaScanPart& part;
  SequencePart place;
  int slice;
  int segment;  // of all sequences
  int head;
  int column;  // first of 64
  int thread;
  uint32_t shared;
  int first_chunk;  // of the sequence
  int chunks;       // of the sequence
  int begin;        // of the block's walk
  int end;

  __device__ ScanBlock(const GsaScanArgs& scan, const GsaScanPart& of_part, int of_slice,
                       int first_slice, const unsigned char* memory)
      : args(scan),
        part(of_part),
        place(find_part(scan.offsets, scan.sequences, scan.segment_chunks * chunk_rows, 1,
                        static_cast<int>(blockIdx.z), static_cast<int>(threadIdx.x) % warp_size)),
        slice(of_slice),
        segment(static_cast<int>(blockIdx.z)),
        head(static_cast<int>(blockIdx.y)),
        column((of_slice - first_slice) * panel_columns),
        thread(static_cast<int>(threadIdx.x)),
        shared(shared_address(memory)),
        first_chunk(chunks_before(scan.offsets, place.sequence, thread % warp_size)),
        chunks((place.end - place.begin + chunk_rows - 1) / chunk_rows),
        begin(place.index * scan.segment_chunks),
        end(min(begin + scan.segment_chunks, chunks)) {}

  __device__ bool exists() const { return place.sequence >= 0; }
  // The last of its sequence, as the walk goes.
  __device__ bool is_last() const { return end == chunks; }
  // The i-th chunk of the walk.
  __device__ int chunk_at(int i) const { return args.reverse ? chunks - 1 - i : i; }
  __device__ uint32_t stage(int i) const {
    return shared + uint32_t(i % stages * Tiles::stage_bytes);
  }
  __device__ uint32_t rows_panel(int i) const {
    return stage(i) + Tiles::weight_panels * panel_bytes;
  }
  // Begins copying the i-th chunk's weights and rows, if it is the block's.
  __device__ void fetch(int i) const {
    if (i < end) {
      const int chunk = chunk_at(i);
      const int weight_head = head / (args.heads / args.weight_heads);
      const int row_head = head / (args.heads / args.row_heads);
      const int first_row = chunk * chunk_rows;
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
          rows_panel(i), part.rows.at(place.begin + first_row, row_head) + column, part.rows.stride,
          place.end - place.begin - first_row, part.rows.dim - column, thread);
    }
    commit_copies();
  }
  // Waits for this thread's copies of the i-th chunk and makes them ready for the products, once
  // all threads have met: in projected mode, swish of the rows.
  __device__ void prepare(int i) const {
    wait_copies<1>();
    if (part.activate && i < end) {
      swish_panel<chunk_rows, Tiles::threads>(rows_panel(i), thread);
    }
    publish_shared();
  }
  // b relative to its reference at the end of the i-th chunk.
  __device__ float end_decay(int i, int slot) const {
    if (i >= end) {
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
  // What a segment adds to the state and leaves of it.
  __device__ float* segment_states(int of_segment, int slot) const {
    const int dims = args.keys.padded_dim + args.values.padded_dim;
    return args.segment_states + ((int64_t(of_segment) * args.heads + head) * slots + slot) * dims +
           slice * panel_columns;
  }
  __device__ float& segment_decay(int of_segment, int slot) const {
    return args.segment_decays[(int64_t(of_segment) * args.heads + head) * slots + slot];
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
        state[tile][i] = block.part.initial[state_index(block.args, block.part,
                                                        block.place.sequence, block.head, m, d)];
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
          block.part.final[state_index(block.args, block.part, block.place.sequence,
                                       block.head * copies + copy, m, d)] = state[tile][i];
        }
      }
    }
  }
}

// The state at the block's start: what the segments before it make of the initial one.
template <int slots>
__device__ void carry_state(const ScanBlock<slots>& block, int slot, int lane_column,
                            StripAccumulator& state) {
  for (int i = block.segment - block.place.index; i < block.segment; ++i) {
    const float low = block.segment_decay(i, slot);
    const float high = block.segment_decay(i, slot + 8);
    scale_rows(state, low, high);
#pragma unroll
    for (int tile = 0; tile < panel_tiles; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float2 added = *reinterpret_cast<const float2*>(
            block.segment_states(i, slot + half * 8) + tile * 8 + lane_column);
        state[tile][2 * half] += added.x;
        state[tile][2 * half + 1] += added.y;
      }
    }
  }
}

// What the block's segment adds to a state, and what it leaves of one.
template <int slots>
__device__ void store_segment(const ScanBlock<slots>& block, int slot, int lane_column,
                              const StripAccumulator& state, float low, float high) {
#pragma unroll
  for (int tile = 0; tile < panel_tiles; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      *reinterpret_cast<float2*>(block.segment_states(block.segment, slot + half * 8) + tile * 8 +
                                 lane_column) =
          make_float2(state[tile][2 * half], state[tile][2 * half + 1]);
    }
  }
  if (block.slice == 0 && lane_column == 0) {
    block.segment_decay(block.segment, slot) = low;
    block.segment_decay(block.segment, slot + 8) = high;
  }
}

// `segments_only`: the first of the two passes by segments.
template <int slots, bool segments_only>
__global__ void __launch_bounds__(ScanTiles<slots>::threads, ScanTiles<slots>::resident_blocks)
    scan_kernel(const __grid_constant__ GsaScanArgs args) {
  using Tiles = ScanTiles<slots>;
  extern __shared__ __align__(1024) unsigned char memory[];
  const int slice = static_cast<int>(blockIdx.x);
  const int key_slices = args.keys.padded_dim / panel_columns;
  const bool is_keys = slice < key_slices;
  const ScanBlock<slots> block(args, is_keys ? args.keys : args.values, slice,
                               is_keys ? 0 : key_slices, memory);
  if (!block.exists() || (segments_only && block.is_last())) {
    return;
  }
  const int lane = block.thread % warp_size;
  const int strip = block.thread / warp_size * strip_rows;
  const LanePlace place(lane);
  const int slot = strip + place.row;  // and slot + 8
  const uint32_t weights = uint32_t(strip / panel_columns * panel_bytes);
  unsigned char* scratch = memory + Tiles::scratch + strip / strip_rows * strip_bytes;

  block.fetch(block.begin);
  block.fetch(block.begin + 1);
  float end_low = block.end_decay(block.begin, slot);
  float end_high = block.end_decay(block.begin, slot + 8);
  StripAccumulator state;
  if (segments_only) {
    clear(state, panel_tiles);
  } else {
    load_initial(block, slot, place.column, state);
    carry_state(block, slot, place.column, state);
  }
  float left_low = 1.0F;
  float left_high = 1.0F;
  block.prepare(block.begin);
  for (int i = block.begin; i < block.end; ++i) {
    __syncthreads();
    block.fetch(i + 2);
    const ScanFactors low(end_low, args.reverse);
    const ScanFactors high(end_high, args.reverse);
    end_low = block.end_decay(i + 1, slot);
    end_high = block.end_decay(i + 1, slot + 8);
    StripOperand stored;
    if (segments_only) {
      left_low *= low.before * low.after;
      left_high *= high.before * high.after;
    } else {
      to_scaled_operand(stored, state, low.stored, high.stored);
    }
    scale_rows(state, low.before, high.before);
    hold(state, panel_tiles);
    begin_products();
    warpgroup_panels<PanelRows::depth, PanelRows::depth>(state, block.stage(i) + weights,
                                                         block.rows_panel(i));
    commit_products();
    if (!segments_only) {
      store_strip(stored, scratch, block.states(i, strip), block.part.padded_dim, strip_rows,
                  panel_columns, lane);
    }
    block.prepare(i + 1);
    wait_products();
    hold(state, panel_tiles);
    scale_rows(state, low.after, high.after);
  }
  wait_copies<0>();
  if (segments_only) {
    store_segment(block, slot, place.column, state, left_low, left_high);
  } else if (block.is_last()) {
    store_final(block, slot, place.column, state);
  }
}

template <int slots, bool segments_only>
void launch(cudaStream_t stream, const dim3& grid, const GsaScanArgs& args) {
  launch_with_memory(scan_kernel<slots, segments_only>, grid, ScanTiles<slots>::threads,
                     ScanTiles<slots>::memory_bytes, stream, args, "gsa scan");
}

}  // namespace

void launch_gsa_scan(cudaStream_t stream, const GsaSizes& sizes, const GsaScanArgs& args) {
  const dim3 grid(static_cast<unsigned>((sizes.key_dim + sizes.value_dim) / gsa_tile),
                  static_cast<unsigned>(args.heads), static_cast<unsigned>(args.segments));
  const bool by_segments = args.segments > args.sequences;
  if (sizes.slots == gsa_tile) {
    if (by_segments) {
      launch<64, true>(stream, grid, args);
    }
    launch<64, false>(stream, grid, args);
  } else {
    if (by_segments) {
      launch<128, true>(stream, grid, args);
    }
    launch<128, false>(stream, grid, args);
  }
}

}  // namespace gsa::kernels::cuda
