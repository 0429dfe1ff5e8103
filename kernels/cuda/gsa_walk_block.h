// What the blocks of gsa_walk.cu are made of: shared memory, a block's place, and the copies that
// feed it.
#pragma once

#include "kernels/cuda/async_copy.h"
#include "kernels/cuda/gsa_kernels.h"
#include "kernels/cuda/gsa_swish.h"
#include "kernels/cuda/wgmma.h"

namespace gsa::kernels::cuda::walk_chunks {

inline constexpr int groups = int(GsaWalkPlan::warpgroups);
inline constexpr int readers_of_stages = groups * warpgroup_threads / warp_size;  // warps
inline constexpr int threads = (groups + 1) * warpgroup_threads;
// In the last warpgroup the first warp copies tiles, the others put X through swish.
inline constexpr int copying_warp = readers_of_stages;
inline constexpr int activating_warps = warpgroup_threads / warp_size - 1;

// `columns`: a warpgroup's.
template <int slots, int columns>
struct WalkTiles {
  // The registers of a multiprocessor go to the warpgroups that compute, as far as they want them.
  static constexpr int walker_registers = columns == panel_columns ? 232 : 240;
  static constexpr int copier_registers = columns == panel_columns ? 40 : 24;
  static constexpr int panels = columns / panel_columns;     // of a warpgroup's columns
  static constexpr int slot_panels = slots / panel_columns;  // of what has a column for each slot
  static constexpr int tiles = columns / 8;                  // accumulator tiles
  static constexpr int slot_tiles = slots / 8;
  static constexpr int rows_bytes = groups * panels * panel_bytes;
  static constexpr int slot_bytes = slot_panels * panel_bytes;
  // A stage: X, Y, the weights, r e^b, w.
  static constexpr int written = 0;
  static constexpr int readers = written + rows_bytes;
  static constexpr int weights = readers + rows_bytes;
  static constexpr int operands = weights + panel_bytes;
  static constexpr int end_key_gate = operands + slot_bytes;
  static constexpr int stage_bytes = end_key_gate + slot_bytes;
  static constexpr int stages = columns == panel_columns && slot_panels == 1 ? 3 : 2;
  // The state's gradient in bfloat16, [slots, 64] a panel; then the strips of dX on their way out.
  static constexpr int gradient_panel = slots * panel_row_bytes;
  static constexpr int gradients = stages * stage_bytes;
  // A warpgroup has half of the slots of X G^T, and of its tiles hands half to the other block of
  // the cluster; two chunks' worth of what comes from there.
  static constexpr int written_tiles = slot_tiles / groups;
  static constexpr int kept_tiles = written_tiles / 2;
  static constexpr int exchange = gradients + groups * panels * gradient_panel;
  static constexpr int handed_bytes = kept_tiles * warpgroup_threads * int(sizeof(float4));
  static constexpr int exchange_bytes = 2 * groups * handed_bytes;
  // Barriers: a stage's copies have landed; its rows have been through swish; all warps are done
  // with it; and by buffer and warpgroup, what the other block hands over is there.
  static constexpr int full = exchange + exchange_bytes;
  static constexpr int active = full + stages * 8;
  static constexpr int empty = active + stages * 8;
  static constexpr int handed = empty + stages * 8;
  static constexpr int memory_bytes = handed + 2 * groups * 8;
};

struct WalkMaps {
  CUtensorMap written;
  CUtensorMap readers;
  CUtensorMap weights;
  CUtensorMap operands;
};

struct WalkArgs {
  GsaWalkArgs of;
  WalkMaps maps[2];
  CUtensorMap end_key_gate;
};

// Where a block is: a slice of a side of a head, and a segment or piece of a sequence.
struct WalkPlace {
  int side;
  int slice;       // of both sides together
  int column;      // of the side's dimensions, the block's first
  int head;        // that walks
  int gate_head;   // the key/value head
  int query_head;  // the first of `group`
  int group;
  int state_head;
  int sequence;
  int segment;
  int begin;        // the sequence's first token
  int length;       // tokens of the sequence
  int first_chunk;  // the sequence's, of all
  int chunks;       // of the sequence
  int low;          // the block's chunks [low, high) in the sequence
  int high;

  // Of the block's number.
  __device__ WalkPlace(const GsaWalkArgs& args, int width, int lane) {
    const GsaWalkPlan& plan = args.plan;
    segment = static_cast<int>(blockIdx.z) % static_cast<int>(plan.segments);
    set_slice(args, static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y), width);
    set_sequence(args, static_cast<int>(blockIdx.z) / static_cast<int>(plan.segments), lane);
    low = segment * static_cast<int>(plan.segment_chunks);
    high = min(chunks, low + static_cast<int>(plan.segment_chunks));
  }
  // Of a piece; `high` and `low` are set by who cuts it.
  __device__ WalkPlace(const GsaWalkArgs& args, int of_sequence, int of_head, int of_slice,
                       int width, int lane) {
    segment = 0;
    set_slice(args, of_slice, of_head, width);
    set_sequence(args, of_sequence, lane);
  }

  __device__ void set_slice(const GsaWalkArgs& args, int of_slice, int of_head, int width) {
    const GsaWalkPlan& plan = args.plan;
    slice = of_slice;
    side = slice < plan.value_slices ? 0 : 1;
    column = (side == 0 ? slice : slice - static_cast<int>(plan.value_slices)) * width;
    head = of_head;
    const int heads = static_cast<int>(plan.heads);
    gate_head = head / (heads / args.gates.heads);
    group = args.query_heads / heads;
    query_head = head * group;
    state_head = head / (heads / args.state_heads);
  }
  __device__ void set_sequence(const GsaWalkArgs& args, int of_sequence, int lane) {
    sequence = of_sequence;
    begin = args.offsets[sequence];
    length = args.offsets[sequence + 1] - begin;
    first_chunk = chunks_before(args.offsets, sequence, lane);
    chunks = (length + chunk_rows - 1) / chunk_rows;
  }

  __device__ bool is_empty() const { return segment > 0 && low >= chunks; }
  // Whether the gate's sum over tokens starts anew at this chunk's end.
  __device__ bool is_anchor(int chunk) const {
    constexpr int every = int(GsaWalkPlan::anchor_chunks);
    return chunk % every == every - 1 || chunk == chunks - 1;
  }
  // Blocks of the same kind before this one, of the segment `of_segment` of its sequence.
  __device__ int64_t block_index(const GsaWalkPlan& plan, int of_segment) const {
    return ((int64_t(sequence) * plan.segments + of_segment) * plan.heads + head) * plan.slices +
           slice;
  }
};

// The pieces of walks that a team has (GsaWalkPlan): a walk is all chunks of a sequence for a head
// and two slices, from the last chunk to the first, and teams have equal numbers of chunks of all
// walks in a row. A team goes through its pieces from the last one, which another team may end, to
// the first one, which another team may have begun: so it hardly ever waits for that. Warps go
// through them together.
struct WalkPieces {
  const GsaWalkArgs& args;
  int width;
  int lane;
  int walks;  // of a sequence
  int team;
  int first;  // chunks of the team that are still to be walked: [first, end) of all walks' in a row
  int end;
  bool resumes = false;  // the piece begins with the gradient that the team before leaves
  bool hands = false;    // it leaves its own for the next team

  __device__ WalkPieces(const GsaWalkArgs& walk, int of_width, int of_lane)
      : args(walk),
        width(of_width),
        lane(of_lane),
        walks(static_cast<int>(walk.plan.heads * walk.plan.slices / 2)),
        team(static_cast<int>(blockIdx.x) / 2) {
    const int64_t all =
        int64_t(chunks_before(args.offsets, static_cast<int>(args.sequences), lane)) * walks;
    first = static_cast<int>(all * team / args.plan.teams);
    end = static_cast<int>(all * (team + 1) / args.plan.teams);
  }
  __device__ bool any() const { return first < end; }
  __device__ WalkPlace next() {
    const int chunk = (end - 1) / walks;
    const SequencePart part =
        find_part(args.offsets, static_cast<int>(args.sequences), chunk_rows, 0, chunk, lane);
    const int chunks = (part.end - part.begin + chunk_rows - 1) / chunk_rows;
    const int sequence_start = (chunk - part.index) * walks;
    const int walk = (end - 1 - sequence_start) / chunks;
    const int start = sequence_start + walk * chunks;
    const int from = max(first, start);
    const int pairs = static_cast<int>(args.plan.slices) / 2;
    WalkPlace place(args, part.sequence, walk / pairs,
                    walk % pairs * 2 + static_cast<int>(blockIdx.x) % 2, width, lane);
    place.high = chunks - (from - start);
    place.low = chunks - (end - start);
    resumes = from > start;
    hands = place.low > 0;
    end = from;
    return place;
  }
};

// The stages in turn.
struct StageTurn {
  int stage = 0;
  int phase;

  template <int stages>
  __device__ __forceinline__ void advance() {
    stage = stage + 1 == stages ? 0 : stage + 1;
    phase ^= stage == 0 ? 1 : 0;
  }
};

// The copying thread: the tiles of every chunk, from the last to the first, and of the group's
// query heads in turn. X and w come with the first of them.
template <int slots, int columns, bool only_sums>
__device__ void copy_tiles(const WalkArgs& args, const WalkPlace& place, uint32_t shared,
                           StageTurn& turn) {
  using Tiles = WalkTiles<slots, columns>;
  const WalkMaps& maps = args.maps[place.side];
  for (int chunk = place.high - 1; chunk >= place.low; --chunk) {
    const int row = place.begin + chunk * chunk_rows;
    const int index = place.first_chunk + chunk;
    for (int member = 0; member < place.group; ++member) {
      const uint32_t base = shared + uint32_t(turn.stage * Tiles::stage_bytes);
      const uint32_t full = shared + uint32_t(Tiles::full + turn.stage * 8);
      const int query_head = place.query_head + member;
      const bool is_first = !only_sums && member == 0;
      wait_barrier(shared + uint32_t(Tiles::empty + turn.stage * 8), turn.phase);
      arrive_expecting(full, Tiles::rows_bytes + Tiles::slot_bytes + (only_sums ? 0 : panel_bytes) +
                                 (is_first ? Tiles::rows_bytes + Tiles::slot_bytes : 0));
      for (int panel = 0; panel < groups * Tiles::panels; ++panel) {
        const int column = place.column + panel * panel_columns;
        const uint32_t to = base + uint32_t(panel * panel_bytes);
        if (is_first) {
          copy_box(to + Tiles::written, maps.written, column, place.gate_head, row, full);
        }
        copy_box(to + Tiles::readers, maps.readers, column, query_head, row, full);
      }
      const int by_query = (index * args.of.query_heads + query_head) * chunk_rows;
      if (!only_sums) {
        copy_box(base + Tiles::weights, maps.weights, 0, 0, by_query, full);
      }
      for (int panel = 0; panel < Tiles::slot_panels; ++panel) {
        const uint32_t to = base + uint32_t(panel * panel_bytes);
        copy_box(to + Tiles::operands, maps.operands, panel * panel_columns, 0, by_query, full);
        if (is_first) {
          copy_box(to + Tiles::end_key_gate, args.end_key_gate, panel * panel_columns, 0,
                   (index * args.of.gates.heads + place.gate_head) * chunk_rows, full);
        }
      }
      turn.advance<Tiles::stages>();
    }
  }
}

// Projected mode, the warps beside the copying one: swish of X where it has landed, for all chunks.
template <int slots, int columns>
__device__ void activate_written(const WalkPlace& place, uint32_t shared, StageTurn& turn) {
  using Tiles = WalkTiles<slots, columns>;
  constexpr int activators = activating_warps * warp_size;
  constexpr int pieces = Tiles::rows_bytes / piece_bytes;
  constexpr int at_once = 2;
  const int thread = static_cast<int>(threadIdx.x) - (copying_warp + 1) * warp_size;
  int member = 0;
#pragma unroll 1
  for (int left = (place.high - place.low) * place.group; left > 0; --left) {
    const uint32_t rows = shared + uint32_t(turn.stage * Tiles::stage_bytes + Tiles::written);
    wait_barrier(shared + uint32_t(Tiles::full + turn.stage * 8), turn.phase);
    if (member == 0) {
#pragma unroll 1
      for (int i = thread; i < pieces; i += at_once * activators) {
        swish_pieces<at_once>(rows + uint32_t(i * piece_bytes), activators * piece_bytes,
                              (pieces - i + activators - 1) / activators);
      }
      publish_shared();
      __syncwarp();
    }
    if (thread % warp_size == 0) {
      arrive(shared + uint32_t(Tiles::active + turn.stage * 8));
    }
    member = member + 1 == place.group ? 0 : member + 1;
    turn.advance<Tiles::stages>();
  }
}

}  // namespace gsa::kernels::cuda::walk_chunks
