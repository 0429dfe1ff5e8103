// What a warpgroup of gsa_walk.cu does: its part of the states' gradients, the products, and the
// sums that it leaves for the gate's gradient.
#pragma once

#include "kernels/cuda/gsa_walk_block.h"

namespace gsa::kernels::cuda::walk_chunks {

inline constexpr int walkers_barrier = 1;

// Bytes in a descriptor's address.
__host__ __device__ inline constexpr uint64_t distance(int bytes) {
  return uint64_t(bytes / 16);
}

// A warpgroup's part of a block, and of G.
template <int slots, int columns>
struct Walker {
  using Tiles = WalkTiles<slots, columns>;
  using Gradient = float[Tiles::slot_panels][Tiles::tiles][4];
  using Output = float[Tiles::tiles][4];
  using Written = float[Tiles::written_tiles][4];
  using Kept = float[Tiles::kept_tiles][4];

  const WalkArgs& args;
  const WalkPlace& place;
  const GsaWalkSide& side;
  unsigned char* memory;
  uint32_t shared;
  int group;
  int thread;  // of the warpgroup
  int lane;
  int row;     // first of the warp's 16
  int column;  // of the side's dimensions, the warpgroup's first

  __device__ Walker(const WalkArgs& walk, const WalkPlace& at, unsigned char* memory)
      : args(walk),
        place(at),
        side(walk.of.sides[at.side]),
        memory(memory),
        shared(shared_address(memory)),
        group(__shfl_sync(~0U, static_cast<int>(threadIdx.x) / warpgroup_threads, 0)),
        thread(static_cast<int>(threadIdx.x) % warpgroup_threads),
        lane(thread % warp_size),
        row(thread / warp_size * strip_rows),
        column(at.column + group * columns) {}

  // What follows from the lane is computed anew from here on: kept over a whole loop it would be
  // spilled, and waited for.
  __device__ __forceinline__ void forget_lane() { asm volatile("" : "+r"(lane)); }

  __device__ uint32_t rows_at(uint32_t stage, int offset) const {
    return stage + uint32_t(offset + group * Tiles::panels * panel_bytes);
  }
  __device__ uint32_t gradients() const {
    return shared + uint32_t(Tiles::gradients + group * Tiles::panels * Tiles::gradient_panel);
  }
  // The warp's strip of a panel of the rounded gradients, or of dX.
  __device__ unsigned char* strip(int panel, int half) const {
    return memory + Tiles::gradients + (group * Tiles::panels + panel) * Tiles::gradient_panel +
           half * panel_bytes + row * panel_row_bytes;
  }
  // Of both warpgroups, as each reads the other's gradients for X G^T.
  __device__ void sync() const { sync_threads(walkers_barrier, groups * warpgroup_threads); }
  __device__ int slot(int half, int part) const {
    return half * panel_columns + row + lane / 4 + part * 8;
  }
  __device__ int64_t chunk_index(int chunk) const { return place.first_chunk + chunk; }
  __device__ int64_t slice_index(int chunk) const {
    return (chunk_index(chunk) * args.of.plan.heads + place.head) * args.of.plan.slices +
           place.slice;
  }
  // b relative to its reference at a chunk's end.
  __device__ float end_decay(int chunk, int slot) const {
    if (chunk < place.low) {
      return 0.0F;
    }
    const int64_t gate = chunk_index(chunk) * args.of.gates.heads + place.gate_head;
    return __ldg(args.of.gates.decay + (gate * chunk_rows + chunk_rows - 1) * slots + slot);
  }
};

template <int slots, int columns>
__device__ __forceinline__ void scale_gradient(typename Walker<slots, columns>::Gradient& gradient,
                                               const float (&by)[slots / 64][2]) {
#pragma unroll
  for (int half = 0; half < slots / panel_columns; ++half) {
#pragma unroll
    for (int tile = 0; tile < columns / 8; ++tile) {
      gradient[half][tile][0] *= by[half][0];
      gradient[half][tile][1] *= by[half][0];
      gradient[half][tile][2] *= by[half][1];
      gradient[half][tile][3] *= by[half][1];
    }
  }
}

// Calls f(element of G, index) for every element in `states`, initial or final ones in float32.
template <int slots, int columns, typename F>
__device__ void for_state_elements(const Walker<slots, columns>& walker, F&& f) {
  const int64_t state =
      int64_t(walker.place.sequence) * walker.args.of.plan.heads + walker.place.head;
  const int dim = walker.side.gradient.dim;
  const int existing = walker.args.of.gates.slots;
#pragma unroll
  for (int half = 0; half < slots / panel_columns; ++half) {
#pragma unroll
    for (int tile = 0; tile < columns / 8; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int m = walker.slot(half, i / 2);
        const int d = walker.column + tile * 8 + walker.lane % 4 * 2 + i % 2;
        if (m < existing && d < dim) {
          f(half, tile, i,
            state * existing * dim +
                (walker.side.dim_major ? int64_t(d) * existing + m : int64_t(m) * dim + d));
        }
      }
    }
  }
}

// The segments' sums and decays lie by thread, as the registers that hold them.
template <int slots, int columns>
__device__ float* segment_state(const Walker<slots, columns>& walker, int segment) {
  const int64_t block = walker.place.block_index(walker.args.of.plan, segment);
  return walker.args.of.segment_states + ((block * groups + walker.group) * columns * slots) +
         walker.thread * 4;
}
template <int slots, int columns>
__device__ float* segment_decay(const Walker<slots, columns>& walker, int segment) {
  const int64_t block = walker.place.block_index(walker.args.of.plan, segment);
  return walker.args.of.segment_decays + (block * groups + walker.group) * 4 * slots +
         walker.thread;
}

// G at the end of the block's segment.
template <int slots, int columns>
__device__ void start_gradient(const Walker<slots, columns>& walker,
                               typename Walker<slots, columns>::Gradient& gradient) {
  constexpr int halves = slots / panel_columns;
#pragma unroll
  for (int half = 0; half < halves; ++half) {
    clear(gradient[half], columns / 8);
  }
  if (walker.side.final_gradient != nullptr) {
    for_state_elements(walker, [&](int half, int tile, int i, int64_t index) {
      gradient[half][tile][i] = walker.side.final_gradient[index];
    });
  }
  const int length = static_cast<int>(walker.args.of.plan.segment_chunks);
  const int segments = (walker.place.chunks + length - 1) / length;
#pragma unroll 1
  for (int later = segments - 1; later > walker.place.segment; --later) {
    const float* sums = segment_state(walker, later);
    const float* decays = segment_decay(walker, later);
    float by[halves][2];
#pragma unroll
    for (int i = 0; i < 2 * halves; ++i) {
      by[i / 2][i % 2] = decays[i * warpgroup_threads];
    }
    scale_gradient<slots, columns>(gradient, by);
#pragma unroll
    for (int i = 0; i < halves * columns / 8; ++i) {
      const float4 sum =
          *reinterpret_cast<const float4*>(sums + int64_t(i) * warpgroup_threads * 4);
      float(&tile)[4] = gradient[i / (columns / 8)][i % (columns / 8)];
      tile[0] += sum.x;
      tile[1] += sum.y;
      tile[2] += sum.z;
      tile[3] += sum.w;
    }
  }
}

// What a segment adds, and how what came later fades in it.
template <int slots, int columns>
__device__ void store_segment(const Walker<slots, columns>& walker,
                              const typename Walker<slots, columns>::Gradient& gradient,
                              const float (&fade)[slots / 64][2]) {
  constexpr int halves = slots / panel_columns;
  float* sums = segment_state(walker, walker.place.segment);
  float* decays = segment_decay(walker, walker.place.segment);
#pragma unroll
  for (int i = 0; i < 2 * halves; ++i) {
    decays[i * warpgroup_threads] = fade[i / 2][i % 2];
  }
#pragma unroll
  for (int i = 0; i < halves * columns / 8; ++i) {
    const float(&tile)[4] = gradient[i / (columns / 8)][i % (columns / 8)];
    *reinterpret_cast<float4*>(sums + int64_t(i) * warpgroup_threads * 4) =
        make_float4(tile[0], tile[1], tile[2], tile[3]);
  }
}

// Between teams (WalkPieces) a state's gradient lies in memory as the registers that hold it, a
// block's after another's; a flag says that it is there.
template <int slots, int columns>
__device__ float* team_gradient(const Walker<slots, columns>& walker, int team) {
  const int64_t block = int64_t(team) * 2 + walker.place.slice % 2;
  return walker.args.of.segment_states + (block * groups + walker.group) * columns * slots +
         walker.thread * 4;
}
template <int slots, int columns>
__device__ int* team_flag(const Walker<slots, columns>& walker, int team) {
  return walker.args.of.team_flags + team * 2 + walker.place.slice % 2;
}

template <int slots, int columns>
__device__ void hand_gradient(const Walker<slots, columns>& walker, int team,
                              const typename Walker<slots, columns>::Gradient& gradient) {
  float* target = team_gradient(walker, team);
#pragma unroll
  for (int i = 0; i < slots / panel_columns * columns / 8; ++i) {
    const float(&tile)[4] = gradient[i / (columns / 8)][i % (columns / 8)];
    *reinterpret_cast<float4*>(target + int64_t(i) * warpgroup_threads * 4) =
        make_float4(tile[0], tile[1], tile[2], tile[3]);
  }
  walker.sync();
  if (walker.group == 0 && walker.thread == 0) {
    __threadfence();
    asm volatile("st.release.gpu.global.s32 [%0], 1;\n" ::"l"(team_flag(walker, team)) : "memory");
  }
}

// Waits for it. Teams before this one have started before it, and what they hand over they do
// first: the wait ends.
template <int slots, int columns>
__device__ void take_gradient(const Walker<slots, columns>& walker, int team,
                              typename Walker<slots, columns>::Gradient& gradient) {
  const int* flag = team_flag(walker, team);
  int there = 0;
  while (there == 0) {
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];\n" : "=r"(there) : "l"(flag) : "memory");
  }
  const float* source = team_gradient(walker, team);
#pragma unroll
  for (int i = 0; i < slots / panel_columns * columns / 8; ++i) {
    const float4 x =
        __ldcg(reinterpret_cast<const float4*>(source + int64_t(i) * warpgroup_threads * 4));
    float(&tile)[4] = gradient[i / (columns / 8)][i % (columns / 8)];
    tile[0] = x.x;
    tile[1] = x.y;
    tile[2] = x.z;
    tile[3] = x.w;
  }
}

// Leaves G rounded in shared memory.
template <int slots, int columns>
__device__ __forceinline__ void round_gradient(
    const Walker<slots, columns>& walker,
    const typename Walker<slots, columns>::Gradient& gradient) {
#pragma unroll
  for (int half = 0; half < slots / panel_columns; ++half) {
#pragma unroll
    for (int panel = 0; panel < columns / panel_columns; ++panel) {
      StripOperand rounded;
      to_operand(rounded, gradient[half] + panel * panel_tiles);
      write_strip(walker.strip(panel, half), rounded, walker.lane);
    }
  }
  publish_shared();
  walker.sync();
}

// Projected mode: swish of the warpgroup's part of Y where it has landed.
template <int slots, int columns>
__device__ __forceinline__ void activate_readers(const Walker<slots, columns>& walker,
                                                 uint32_t stage) {
  using Tiles = WalkTiles<slots, columns>;
  constexpr int at_once = 4;
  constexpr int pieces = Tiles::panels * panel_bytes / piece_bytes;
  static_assert(pieces % (at_once * warpgroup_threads) == 0);
  const uint32_t rows =
      walker.rows_at(stage, Tiles::readers) + uint32_t(walker.thread * piece_bytes);
#pragma unroll 1
  for (int i = 0; i < pieces; i += at_once * warpgroup_threads) {
    swish_pieces<at_once>(rows + uint32_t(i * piece_bytes), warpgroup_threads * piece_bytes);
  }
  publish_shared();
  walker.sync();
}

// written = X G^T of all the block's dimensions, for the warpgroup's half of the slots
template <int slots, int columns>
__device__ __forceinline__ void begin_written(const Walker<slots, columns>& walker, uint32_t stage,
                                              typename Walker<slots, columns>::Written& written) {
  using Tiles = WalkTiles<slots, columns>;
  const uint64_t rows = panel_descriptor(stage + Tiles::written);
  const uint64_t gradients = panel_descriptor(walker.shared + Tiles::gradients +
                                              walker.group * (slots / groups * panel_row_bytes));
#pragma unroll
  for (int panel = 0; panel < groups * Tiles::panels; ++panel) {
#pragma unroll
    for (int step = 0; step < panel_steps; ++step) {
      const uint64_t along = step * step_distance<PanelRows::columns>;
      warpgroup_product<PanelRows::columns, PanelRows::columns>(
          written, rows + distance(panel * panel_bytes) + along,
          gradients + distance(panel * Tiles::gradient_panel) + along, panel > 0 || step > 0);
    }
  }
  commit_products();
}

// out = w G
template <int slots, int columns>
__device__ __forceinline__ void begin_later(const Walker<slots, columns>& walker, uint32_t stage,
                                            typename Walker<slots, columns>::Output& out) {
  using Tiles = WalkTiles<slots, columns>;
  const uint64_t gate = panel_descriptor(stage + Tiles::end_key_gate);
  const uint64_t gradients = panel_descriptor(walker.gradients(), Tiles::gradient_panel);
#pragma unroll
  for (int panel = 0; panel < Tiles::slot_panels; ++panel) {
#pragma unroll
    for (int step = 0; step < panel_steps; ++step) {
      warpgroup_product<PanelRows::columns, PanelRows::depth>(
          out, gate + distance(panel * panel_bytes) + step * step_distance<PanelRows::columns>,
          gradients + distance(panel * panel_bytes) + step * step_distance<PanelRows::depth>,
          panel > 0 || step > 0);
    }
  }
}

// out += W^T Y
template <int slots, int columns>
__device__ __forceinline__ void begin_own(const Walker<slots, columns>& walker, uint32_t stage,
                                          typename Walker<slots, columns>::Output& out) {
  using Tiles = WalkTiles<slots, columns>;
  const uint64_t weights = panel_descriptor(stage + Tiles::weights);
  const uint64_t readers = panel_descriptor(walker.rows_at(stage, Tiles::readers));
#pragma unroll
  for (int step = 0; step < panel_steps; ++step) {
    const uint64_t down = step * step_distance<PanelRows::depth>;
    warpgroup_product<PanelRows::depth, PanelRows::depth>(out, weights + down, readers + down,
                                                          true);
  }
  commit_products();
}

// G += (r e^b)^T Y
template <int slots, int columns>
__device__ __forceinline__ void begin_gradient(
    const Walker<slots, columns>& walker, uint32_t stage,
    typename Walker<slots, columns>::Gradient& gradient) {
  using Tiles = WalkTiles<slots, columns>;
  const uint64_t operands = panel_descriptor(stage + Tiles::operands);
  const uint64_t readers = panel_descriptor(walker.rows_at(stage, Tiles::readers));
#pragma unroll
  for (int half = 0; half < Tiles::slot_panels; ++half) {
#pragma unroll
    for (int step = 0; step < panel_steps; ++step) {
      const uint64_t down = step * step_distance<PanelRows::depth>;
      warpgroup_product<PanelRows::depth, PanelRows::depth>(
          gradient[half], operands + distance(half * panel_bytes) + down, readers + down, true);
    }
  }
  commit_products();
}

// The warpgroup's part of sum_d S G at a chunk's end, of the state that the chunk began with; a few
// rows of the state at a time, for registers are scarce where products are under way.
template <int slots, int columns>
__device__ __forceinline__ void sum_states(const Walker<slots, columns>& walker, int chunk) {
  using Tiles = WalkTiles<slots, columns>;
  constexpr int pieces = columns / piece_columns;
  constexpr int rows_at_once = warpgroup_threads / pieces;
  constexpr int batch = 4;
  const int piece = walker.thread % pieces;
  const int first = walker.thread / pieces;
  const int column = walker.column + piece * piece_columns;
  const int64_t state =
      walker.chunk_index(chunk) * walker.args.of.state_heads + walker.place.state_head;
  const bfloat16* source =
      walker.side.states + (state * slots + first) * walker.side.padded_dim + column;
  const unsigned char* gradients = walker.memory + (walker.gradients() - walker.shared) +
                                   piece / row_pieces * Tiles::gradient_panel;
  float* sums = walker.args.of.state_products +
                (walker.slice_index(chunk) * groups + walker.group) * slots + first;
#pragma unroll 1
  for (int row = 0; row < slots; row += batch * rows_at_once) {
    uint4 states[batch];
#pragma unroll
    for (int i = 0; i < batch; ++i) {
      states[i] = column < walker.side.padded_dim
                      ? __ldg(reinterpret_cast<const uint4*>(
                            source + int64_t(row + i * rows_at_once) * walker.side.padded_dim))
                      : uint4{};
    }
#pragma unroll
    for (int i = 0; i < batch; ++i) {
      const uint4 gradient = *reinterpret_cast<const uint4*>(
          gradients + panel_offset(first + row + i * rows_at_once, piece % row_pieces));
      const uint32_t s[4] = {states[i].x, states[i].y, states[i].z, states[i].w};
      const uint32_t g[4] = {gradient.x, gradient.y, gradient.z, gradient.w};
      float sum = 0.0F;
#pragma unroll
      for (int pair = 0; pair < 4; ++pair) {
        const float2 a = unpack_pair(s[pair]);
        const float2 b = unpack_pair(g[pair]);
        sum += a.x * b.x + a.y * b.y;
      }
#pragma unroll
      for (int step = 1; step < pieces; step *= 2) {
        sum += __shfl_xor_sync(~0U, sum, step);
      }
      if (piece == 0) {
        sums[row + i * rows_at_once] = sum;
      }
    }
  }
}

// X G^T is added up over the two blocks of a cluster: each hands over half of its tiles, and
// stores the sum of the other half a chunk later, when the other block's part is there. As a block
// hands over a chunk only after it has taken in the one before, two buffers are enough.
template <int slots, int columns>
struct WrittenExchange {
  using Walks = Walker<slots, columns>;
  using Tiles = WalkTiles<slots, columns>;
  const Walks& walker;
  const bool is_clustered;
  const int turns;  // chunks that the block has walked before
  const int rank;
  typename Walks::Kept kept;

  __device__ WrittenExchange(const Walks& of, int turns_before)
      : walker(of),
        is_clustered(of.args.of.plan.cluster != 1),
        turns(turns_before),
        rank(is_clustered ? cluster_rank() : 0) {}

  // Of a chunk, in the order of the block's walks.
  __device__ int turn(int chunk) const { return turns + walker.place.high - 1 - chunk; }
  __device__ uint32_t buffer(int chunk) const {
    return walker.shared +
           uint32_t(Tiles::exchange +
                    (turn(chunk) % 2 * groups + walker.group) * Tiles::handed_bytes +
                    walker.thread * int(sizeof(float4)));
  }
  __device__ uint32_t barrier(int chunk) const {
    return walker.shared + uint32_t(Tiles::handed + (turn(chunk) % 2 * groups + walker.group) * 8);
  }
  // The lane's first element of the warpgroup's tile.
  __device__ float* target(int chunk, int tile) const {
    const GsaWalkPlan& plan = walker.args.of.plan;
    const int64_t part =
        (walker.chunk_index(chunk) * plan.heads + walker.place.head) * plan.written_parts +
        walker.place.slice / int(plan.cluster);
    return walker.args.of.written_products +
           (part * chunk_rows + walker.row + walker.lane / 4) * slots + walker.lane % 4 * 2 +
           (walker.group * Tiles::written_tiles + tile) * 8;
  }
  __device__ void store(float* to, float a, float b, float c, float d) const {
    *reinterpret_cast<float2*>(to) = make_float2(a, b);
    *reinterpret_cast<float2*>(to + 8 * slots) = make_float2(c, d);
  }

  __device__ __forceinline__ void hand(int chunk, const typename Walks::Written& written) {
    if (!is_clustered) {
#pragma unroll
      for (int tile = 0; tile < Tiles::written_tiles; ++tile) {
        store(target(chunk, tile), written[tile][0], written[tile][1], written[tile][2],
              written[tile][3]);
      }
      return;
    }
    if (chunk < walker.place.high - 1) {
      take(chunk + 1);
    }
    const uint32_t to = address_in_block(buffer(chunk), rank ^ 1);
    const uint32_t report = address_in_block(barrier(chunk), rank ^ 1);
#pragma unroll
    for (int tile = 0; tile < Tiles::kept_tiles; ++tile) {
      float handed[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float low = written[tile][i];
        const float high = written[tile + Tiles::kept_tiles][i];
        kept[tile][i] = rank == 0 ? low : high;
        handed[i] = rank == 0 ? high : low;
      }
      hand_over(to + uint32_t(tile * warpgroup_threads * int(sizeof(float4))), handed, report);
    }
  }
  __device__ __forceinline__ void take(int chunk) const {
    if (walker.thread == 0) {
      arrive_expecting(barrier(chunk), Tiles::handed_bytes);
    }
    wait_barrier(barrier(chunk), turn(chunk) / 2 % 2);
    const float4* handed =
        reinterpret_cast<const float4*>(walker.memory + (buffer(chunk) - walker.shared));
#pragma unroll
    for (int tile = 0; tile < Tiles::kept_tiles; ++tile) {
      const float4 other = handed[tile * warpgroup_threads];
      store(target(chunk, rank * Tiles::kept_tiles + tile), kept[tile][0] + other.x,
            kept[tile][1] + other.y, kept[tile][2] + other.z, kept[tile][3] + other.w);
    }
  }
  __device__ __forceinline__ void take_last() const {
    if (is_clustered && walker.place.high > walker.place.low) {
      take(walker.place.low);
    }
  }
};

}  // namespace gsa::kernels::cuda::walk_chunks
