// States at every chunk's boundary.
//
//   state[m, d] = e^{b_end[m]} state[m, d] + sum over the chunk's tokens t of w[t, m] x[t, d]
//   w = s e^(b_end - b), x = k or v
//   projected: k and v are swish of the rows that come, applied where they land
//
// A block has one head of one sequence, or of a segment of it, and 64 or 128 of its dimensions; the
// state [slots, dimensions] stays in registers in float32, as the accumulators of a warpgroup's
// products: 64 slots a warpgroup, 16 a warp. A chunk's weights (64 x slots) and rows come through
// shared memory, `Tiles::stages` chunks deep. The state before each chunk goes to memory in
// bfloat16, and the next chunk's rows go through swish, while the tensor cores work. At B8 T2048 H4
// K=V=512 M64: 128 MB of rows read, 134 MB of states written, 134 MB of weights (half of it with
// 128 dimensions a block) from the L2 cache; 8.6 GFLOP.
//
// By segments (GsaSegments) all this runs twice, rows read twice: first every segment from nothing,
// for what it adds to a state, then from the state that it finds: the initial one, carried through
// the segments before it. At B1 T16384: 8 segments, 8 MB of states between the passes.
#pragma once

#include "kernels/cuda/gsa_kernels.h"
#include "kernels/cuda/wgmma.h"

namespace gsa::kernels::cuda::scans {

// How a block is made: slots, panels of 64 dimensions, and stages.
template <int of_slots, int of_panels, int of_stages>
struct ScanTiles {
  static constexpr int slots = of_slots;
  static constexpr int panels = of_panels;
  static constexpr int stages = of_stages;
  static constexpr int columns = panels * panel_columns;
  static constexpr int threads = slots / strip_rows * warp_size;
  static constexpr int weight_panels = slots / panel_columns;
  static constexpr int stage_bytes = (weight_panels + panels) * panel_bytes;
  static constexpr int scratch = stages * stage_bytes;
  static constexpr int memory_bytes = scratch + slots / strip_rows * strip_bytes;
};

// Slices of dimensions that a head's keys or values are cut into.
template <typename Tiles>
__host__ __device__ inline int slices_of(int padded_dim) {
  return (padded_dim + Tiles::columns - 1) / Tiles::columns;
}

// Which part of a scan a block does.
struct ScanItem {
  int slice;  // of the keys' dimensions, then of the values'
  int head;
  int segment;  // of all sequences
};

// What a block works on: a head of a segment, and some dimensions of its keys or values.
template <typename Tiles>
struct ScanBlock {
  static constexpr int slots = Tiles::slots;
  const GsaScanArgs& args;
  const GsaScanPart& part;
  SequencePart place;
  bool writes_decays;
  int segment;
  int head;
  int column;          // first of Tiles::columns
  int segment_column;  // the same among the dimensions of keys and values
  int thread;
  uint32_t shared;
  int first_chunk;  // of the sequence
  int chunks;       // of the sequence
  int begin;        // of the block's walk
  int end;

  __device__ ScanBlock(const GsaScanArgs& scan, const ScanItem& item, const unsigned char* memory)
      : ScanBlock(scan, item, slices_of<Tiles>(scan.keys.padded_dim), memory) {}
  __device__ ScanBlock(const GsaScanArgs& scan, const ScanItem& item, int key_slices,
                       const unsigned char* memory)
      : args(scan),
        part(item.slice < key_slices ? scan.keys : scan.values),
        place(find_part(scan.offsets, scan.sequences, scan.segment_chunks * chunk_rows, 1,
                        item.segment, static_cast<int>(threadIdx.x) % warp_size)),
        writes_decays(item.slice == 0),
        segment(item.segment),
        head(item.head),
        column((item.slice < key_slices ? item.slice : item.slice - key_slices) * Tiles::columns),
        segment_column(column + (item.slice < key_slices ? 0 : scan.keys.padded_dim)),
        thread(static_cast<int>(threadIdx.x)),
        shared(shared_address(memory)),
        first_chunk(chunks_before(scan.offsets, place.sequence, thread % warp_size)),
        chunks((place.end - place.begin + chunk_rows - 1) / chunk_rows),
        begin(place.index * scan.segment_chunks),
        end(min(begin + scan.segment_chunks, chunks)) {}

  __device__ bool exists() const { return place.sequence >= 0; }
  // The last of its sequence.
  __device__ bool is_last() const { return end == chunks; }
  __device__ uint32_t stage(int i) const {
    return shared + uint32_t(i % Tiles::stages * Tiles::stage_bytes);
  }
  __device__ uint32_t rows_panel(int i, int panel) const {
    return stage(i) + uint32_t((Tiles::weight_panels + panel) * panel_bytes);
  }
  // Dimensions from a panel on that memory has.
  __device__ int columns_left(int panel) const {
    return part.padded_dim - column - panel * panel_columns;
  }
  // Begins copying the i-th chunk's weights and rows, if it is the block's.
  __device__ void fetch(int i) const {
    if (i < end) {
      const int weight_head = head / (args.heads / args.weight_heads);
      const int row_head = head / (args.heads / args.row_heads);
      const int first_row = i * chunk_rows;
      const bfloat16* weights =
          part.weights +
          (int64_t(first_chunk + i) * args.weight_heads + weight_head) * (chunk_rows * slots);
#pragma unroll
      for (int panel = 0; panel < Tiles::weight_panels; ++panel) {
        copy_panel<chunk_rows, Tiles::threads>(stage(i) + panel * panel_bytes,
                                               weights + panel * panel_columns, slots, chunk_rows,
                                               panel_columns, thread);
      }
#pragma unroll
      for (int panel = 0; panel < Tiles::panels; ++panel) {
        const int first = column + panel * panel_columns;
        copy_panel<chunk_rows, Tiles::threads>(
            rows_panel(i, panel), part.rows.at(place.begin + first_row, row_head) + first,
            part.rows.stride, place.end - place.begin - first_row, part.rows.dim - first, thread);
      }
    }
    commit_copies();
  }
  // Waits for this thread's copies of the i-th chunk and makes them ready for the products, once
  // all threads have met: in projected mode, swish of the rows.
  __device__ void prepare(int i) const {
    wait_copies<Tiles::stages - 2>();
    if (part.activate && i < end) {
#pragma unroll
      for (int panel = 0; panel < Tiles::panels; ++panel) {
        swish_panel<chunk_rows, Tiles::threads>(rows_panel(i, panel), thread);
      }
    }
    publish_shared();
  }
  // b relative to its reference at the end of the i-th chunk.
  __device__ float end_decay(int i, int slot) const {
    if (i >= end) {
      return 0.0F;
    }
    const int64_t chunk = first_chunk + i;
    const int gate_head = head / (args.heads / args.gate_heads);
    return args
        .decay[((chunk * args.gate_heads + gate_head) * chunk_rows + chunk_rows - 1) * slots +
               slot];
  }
  // Where the state before the i-th chunk goes, from `slot` on.
  __device__ bfloat16* states(int i, int slot) const {
    return part.states +
           ((int64_t(first_chunk + i) * args.heads + head) * slots + slot) * part.padded_dim +
           column;
  }
  // What a segment adds to the state and leaves of it.
  __device__ float* segment_states(int of_segment, int slot) const {
    const int dims = args.keys.padded_dim + args.values.padded_dim;
    return args.segment_states + ((int64_t(of_segment) * args.heads + head) * slots + slot) * dims +
           segment_column;
  }
  __device__ float& segment_decay(int of_segment, int slot) const {
    return args.segment_decays[(int64_t(of_segment) * args.heads + head) * slots + slot];
  }
};

// How a chunk scales a slot's state, from the last b of the chunk relative to its reference
// (GsaGates). The weights are complete, and what is stored is what e^b relative to the reference
// reads.
struct ScanFactors {
  float stored;
  float before;  // the chunk is added

  __device__ explicit ScanFactors(float relative_end) {
    const float reference = fmaxf(relative_end, -GsaGates::factor_limit);
    stored = __expf(reference);
    before = __expf(relative_end + reference);
  }
};

// Element (slot, d) of an initial or final state of a query head.
__device__ inline int64_t state_index(const GsaScanArgs& args, const GsaScanPart& part,
                                      int64_t sequence, int query_head, int slot, int d) {
  const int64_t state = sequence * args.query_heads + query_head;
  const int dim = part.rows.dim;
  return state * args.slots * dim +
         (part.dim_major ? int64_t(d) * args.slots + slot : int64_t(slot) * dim + d);
}

template <typename Tiles>
using ScanState = StripAccumulator[Tiles::panels];

// Calls f(panel, tile, element, slot, dimension) for what a lane has of a state and exists.
template <typename Tiles, typename F>
__device__ void for_each_element(const ScanBlock<Tiles>& block, int slot, int lane_column, F&& f) {
#pragma unroll
  for (int panel = 0; panel < Tiles::panels; ++panel) {
#pragma unroll
    for (int tile = 0; tile < panel_tiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int m = slot + i / 2 * 8;
        const int d = block.column + panel * panel_columns + tile * 8 + lane_column + i % 2;
        if (m < block.args.slots && d < block.part.rows.dim) {
          f(panel, tile, i, m, d);
        }
      }
    }
  }
}

template <typename Tiles>
__device__ void load_initial(const ScanBlock<Tiles>& block, int slot, int lane_column,
                             ScanState<Tiles>& state) {
  if (block.part.initial == nullptr) {
    return;
  }
  for_each_element(block, slot, lane_column, [&](int panel, int tile, int i, int m, int d) {
    state[panel][tile][i] =
        block.part
            .initial[state_index(block.args, block.part, block.place.sequence, block.head, m, d)];
  });
}

// Query heads that share the state get a copy each.
template <typename Tiles>
__device__ void store_final(const ScanBlock<Tiles>& block, int slot, int lane_column,
                            const ScanState<Tiles>& state) {
  if (block.part.final == nullptr) {
    return;
  }
  const int copies = block.args.query_heads / block.args.heads;
  for (int copy = 0; copy < copies; ++copy) {
    for_each_element(block, slot, lane_column, [&](int panel, int tile, int i, int m, int d) {
      block.part.final[state_index(block.args, block.part, block.place.sequence,
                                   block.head * copies + copy, m, d)] = state[panel][tile][i];
    });
  }
}

// The state at the block's start: what the segments before it make of the initial one.
template <typename Tiles>
__device__ void carry_state(const ScanBlock<Tiles>& block, int slot, int lane_column,
                            ScanState<Tiles>& state) {
  for (int i = block.segment - block.place.index; i < block.segment; ++i) {
    const float low = block.segment_decay(i, slot);
    const float high = block.segment_decay(i, slot + 8);
#pragma unroll
    for (int panel = 0; panel < Tiles::panels; ++panel) {
      if (block.columns_left(panel) <= 0) {
        continue;
      }
      scale_rows(state[panel], low, high);
      const float* added = block.segment_states(i, slot) + panel * panel_columns + lane_column;
      const float* below = block.segment_states(i, slot + 8) + panel * panel_columns + lane_column;
#pragma unroll
      for (int tile = 0; tile < panel_tiles; ++tile) {
        const float2 upper = *reinterpret_cast<const float2*>(added + tile * 8);
        const float2 lower = *reinterpret_cast<const float2*>(below + tile * 8);
        state[panel][tile][0] += upper.x;
        state[panel][tile][1] += upper.y;
        state[panel][tile][2] += lower.x;
        state[panel][tile][3] += lower.y;
      }
    }
  }
}

// What the block's segment adds to a state, and what it leaves of one.
template <typename Tiles>
__device__ void store_segment(const ScanBlock<Tiles>& block, int slot, int lane_column,
                              const ScanState<Tiles>& state, float low, float high) {
#pragma unroll
  for (int panel = 0; panel < Tiles::panels; ++panel) {
    if (block.columns_left(panel) <= 0) {
      continue;
    }
#pragma unroll
    for (int tile = 0; tile < panel_tiles; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        *reinterpret_cast<float2*>(block.segment_states(block.segment, slot + half * 8) +
                                   panel * panel_columns + tile * 8 + lane_column) =
            make_float2(state[panel][tile][2 * half], state[panel][tile][2 * half + 1]);
      }
    }
  }
  if (block.writes_decays && lane_column == 0) {
    block.segment_decay(block.segment, slot) = low;
    block.segment_decay(block.segment, slot + 8) = high;
  }
}

// Walks a segment. `segments_only`: the first of the two passes by segments. `stored(chunk)` is
// called by all threads after a barrier behind which the state before that chunk is in memory, of
// all that this block writes.
template <typename Tiles, bool segments_only, typename Stored>
__device__ void walk_segment(const GsaScanArgs& args, const ScanItem& item, unsigned char* memory,
                             const Stored& after_store) {
  const ScanBlock<Tiles> block(args, item, memory);
  if (!block.exists() || (segments_only && block.is_last())) {
    return;
  }
  const int lane = block.thread % warp_size;
  const int strip = block.thread / warp_size * strip_rows;
  const LanePlace place(lane);
  const int slot = strip + place.row;  // and slot + 8
  const uint32_t weights = uint32_t(strip / panel_columns * panel_bytes);
  unsigned char* scratch = memory + Tiles::scratch + strip / strip_rows * strip_bytes;

#pragma unroll
  for (int i = 0; i < Tiles::stages - 1; ++i) {
    block.fetch(block.begin + i);
  }
  float end_low = block.end_decay(block.begin, slot);
  float end_high = block.end_decay(block.begin, slot + 8);
  ScanState<Tiles> state;
#pragma unroll
  for (auto& panel : state) {
    clear(panel, panel_tiles);
  }
  if (!segments_only) {
    load_initial(block, slot, place.column, state);
    carry_state(block, slot, place.column, state);
  }
  float left_low = 1.0F;
  float left_high = 1.0F;
  block.prepare(block.begin);
#pragma unroll 1
  for (int i = block.begin; i < block.end; ++i) {
    __syncthreads();
    if (!segments_only && i > block.begin) {
      after_store(block.first_chunk + i - 1);
    }
    block.fetch(i + Tiles::stages - 1);
    const ScanFactors low(end_low);
    const ScanFactors high(end_high);
    end_low = block.end_decay(i + 1, slot);
    end_high = block.end_decay(i + 1, slot + 8);
    left_low *= low.before;
    left_high *= high.before;
    // A panel at a time, so that few registers hold what is on its way to memory.
#pragma unroll
    for (int panel = 0; panel < Tiles::panels; ++panel) {
      if (!segments_only) {
        StripOperand stored;
        to_scaled_operand(stored, state[panel], low.stored, high.stored);
        store_strip(stored, scratch, block.states(i, strip) + panel * panel_columns,
                    block.part.padded_dim, strip_rows, block.columns_left(panel), lane);
      }
      scale_rows(state[panel], low.before, high.before);
      hold(state[panel], panel_tiles);
      begin_products();
      warpgroup_panels<PanelRows::depth, PanelRows::depth>(state[panel], block.stage(i) + weights,
                                                           block.rows_panel(i, panel));
      commit_products();
    }
    block.prepare(i + 1);
    wait_products();
#pragma unroll
    for (int panel = 0; panel < Tiles::panels; ++panel) {
      hold(state[panel], panel_tiles);
    }
  }
  wait_copies<0>();
  if (segments_only) {
    store_segment(block, slot, place.column, state, left_low, left_high);
    return;
  }
  if (block.begin < block.end) {
    __syncthreads();
    after_store(block.first_chunk + block.end - 1);
  }
  if (block.is_last()) {
    store_final(block, slot, place.column, state);
  }
}

}  // namespace gsa::kernels::cuda::scans
