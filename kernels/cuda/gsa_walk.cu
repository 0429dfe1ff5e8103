// The gradients of what is written into the slots: a walk along each sequence from its last chunk
// to its first, with the gradient of a state on the chip. The same arithmetic for both passes:
//
//   X: v (k), Y: dO (q), r: p (scale du), w = s e^(b_end - b), g = s e^-b
//
//   W = tril((r e^b) g^T), G: the state's gradient at the chunk's end, [slots, dimensions]
//
//   dX = W^T Y + w G, that is dv, dk
//
//   X G^T: what later chunks add to ds, for gsa_finish.cu
//
//   G <- e^{b_end} G + (r e^b)^T Y
//
// W and r come from the backward read-out, w from the gates. A block has a head's keys or values, a
// slice of their dimensions, and all chunks of a sequence (or of a segment, GsaWalkPlan). Two
// warpgroups lie side by side along the dimensions, each with its part of G in registers in
// float32, and a rounded copy in shared memory, where the tensor cores (wgmma) read it; a third one
// copies the tiles of the chunks to come. Query heads that share a state add to the same G in turn.
// In projected mode the third one's other warps put v and k through swish where they have landed,
// the walkers q, and dX through its slope on the way out.
//
// Where blocks would not fill their last round on the multiprocessors, clusters share out the
// chunks of all walks evenly, and hand on the states' gradients where a walk goes on elsewhere.
//
// Where sequences are cut into segments, a first launch computes what each segment
// adds to the state's gradient and how it fades; a block then begins with those of all later ones.
//
// At B8 T2048 H4 K=V=512 M64: 128 blocks of 32 chunks, 1 a multiprocessor, 225 KB of shared memory;
// 8.4 MFLOP a block and chunk, 34 GFLOP; 403 MB of rows, 42 MB of gates and weights (four times
// through the L2 cache), 34 MB of states, 34 MB of X G^T.
#include "kernels/cuda/gsa_walk_group.h"
#include "kernels/cuda/tensor_map.h"

namespace gsa::kernels::cuda {
namespace {

using namespace walk_chunks;

// dX through the memory of the rounded gradients, whose readers are all done once the walkers have
// met. In projected mode the inputs whose slopes it takes are asked for before that.
template <int slots, int columns>
__device__ __forceinline__ void store_output(const Walker<slots, columns>& walker, int chunk,
                                             const typename Walker<slots, columns>::Output& out) {
  const HeadRows<bfloat16>& gradient = walker.side.gradient;
  const HeadRows<const bfloat16>& x = walker.side.written;
  const int first = chunk * chunk_rows + walker.row;
  SwishInputs inputs;
#pragma unroll
  for (int panel = 0; panel < columns / panel_columns; ++panel) {
    const int column = walker.column + panel * panel_columns;
    if (walker.side.activates_written) {
      inputs.load(x.at(walker.place.begin + first, walker.place.gate_head) + column, x.stride,
                  walker.place.length - first, x.dim - column, walker.lane);
    }
    if (panel == 0) {
      walker.sync();
    }
    const auto store = [&](const auto& change) {
      store_strip(out + panel * panel_tiles, walker.strip(panel, 0),
                  gradient.at(walker.place.begin + first, walker.place.head) + column,
                  gradient.stride, walker.place.length - first, gradient.dim - column, walker.lane,
                  change);
    };
    if (walker.side.activates_written) {
      store([&](uint4 piece, int i) { return times_swish_slope(piece, inputs.pieces[i]); });
    } else {
      store(AsItIs{});
    }
  }
}

// What a launch walks: what each segment adds, whole sequences or segments of them, or pieces of
// walks by team.
enum class WalkKind : uint8_t { sums, whole, pieces };

// How a chunk fades a slot's gradient: before its own tokens are added, whose operands are relative
// to the reference (GsaGates), and after.
template <int slots, int columns>
struct WalkFade {
  float before[slots / 64][2];
  float after[slots / 64][2];

  __device__ __forceinline__ explicit WalkFade(const float (&ends)[slots / 64][2]) {
#pragma unroll
    for (int i = 0; i < slots / 32; ++i) {
      const float end = ends[i / 2][i % 2];
      before[i / 2][i % 2] = __expf(end);
      after[i / 2][i % 2] = __expf(fmaxf(end, -GsaGates::factor_limit));
    }
  }
};

// What a block carries from one piece to the next.
struct WalkProgress {
  StageTurn turn{.phase = 0};
  int chunks = 0;  // walked
};

template <int slots, int columns, WalkKind kind>
__device__ __forceinline__ void walk(Walker<slots, columns> walker, WalkProgress& progress,
                                     const WalkPieces* pieces = nullptr) {
  constexpr bool only_sums = kind == WalkKind::sums;
  using Tiles = WalkTiles<slots, columns>;
  using Walks = Walker<slots, columns>;
  const WalkPlace& place = walker.place;
  typename Walks::Gradient gradient;
  float ends[slots / 64][2];
  float fade[slots / 64][2];
#pragma unroll
  for (int i = 0; i < slots / 32; ++i) {
    ends[i / 2][i % 2] = walker.end_decay(place.high - 1, walker.slot(i / 2, i % 2));
    fade[i / 2][i % 2] = 1.0F;
  }
  if constexpr (only_sums) {
#pragma unroll
    for (int half = 0; half < Tiles::slot_panels; ++half) {
      clear(gradient[half], Tiles::tiles);
    }
  } else if (kind == WalkKind::pieces && pieces->resumes) {
    take_gradient(walker, pieces->team - 1, gradient);
  } else {
    start_gradient(walker, gradient);
  }
  WrittenExchange<slots, columns> exchange(walker, progress.chunks);
  StageTurn& turn = progress.turn;
#pragma unroll 1
  for (int chunk = place.high - 1; chunk >= place.low; --chunk) {
    if constexpr (kind == WalkKind::pieces) {
      walker.forget_lane();
    }
    const WalkFade<slots, columns> fades(ends);
#pragma unroll
    for (int i = 0; i < slots / 32; ++i) {
      ends[i / 2][i % 2] = walker.end_decay(chunk - 1, walker.slot(i / 2, i % 2));
      fade[i / 2][i % 2] *= fades.before[i / 2][i % 2] * fades.after[i / 2][i % 2];
    }
    typename Walks::Output out;
    if constexpr (!only_sums) {
      round_gradient(walker, gradient);
    }
    scale_gradient<slots, columns>(gradient, fades.before);
#pragma unroll 1
    for (int member = 0; member < place.group; ++member) {
      const uint32_t base = walker.shared + uint32_t(turn.stage * Tiles::stage_bytes);
      wait_barrier(walker.shared + uint32_t(Tiles::full + turn.stage * 8), turn.phase);
      if (walker.side.activates_readers) {
        activate_readers(walker, base);
      }
      if (!only_sums && walker.side.activates_written) {
        wait_barrier(walker.shared + uint32_t(Tiles::active + turn.stage * 8), turn.phase);
      }
      begin_products();
      if constexpr (only_sums) {
        begin_gradient(walker, base, gradient);
      } else if (member == 0) {
        typename Walks::Written written;
        begin_written(walker, base, written);
        begin_later(walker, base, out);
        begin_own(walker, base, out);
        begin_gradient(walker, base, gradient);
        if (place.is_anchor(chunk)) {
          sum_states(walker, chunk);
        }
        wait_products<2>();
        hold(written, Tiles::written_tiles);
        exchange.hand(chunk, written);
      } else {
        begin_own(walker, base, out);
        begin_gradient(walker, base, gradient);
      }
      wait_products<0>();
#pragma unroll
      for (int half = 0; half < Tiles::slot_panels; ++half) {
        hold(gradient[half], Tiles::tiles);
      }
      if (walker.lane == 0) {
        arrive(walker.shared + uint32_t(Tiles::empty + turn.stage * 8));
      }
      turn.advance<Tiles::stages>();
    }
    if constexpr (!only_sums) {
      hold(out, Tiles::tiles);
      if constexpr (kind == WalkKind::pieces) {
        walker.forget_lane();
      }
      store_output(walker, chunk, out);
    }
    scale_gradient<slots, columns>(gradient, fades.after);
  }
  if constexpr (!only_sums) {
    exchange.take_last();
  }
  progress.chunks += place.high - place.low;
  if constexpr (only_sums) {
    store_segment(walker, gradient, fade);
  } else if (kind == WalkKind::pieces && pieces->hands) {
    hand_gradient(walker, pieces->team, gradient);
  } else if (place.segment == 0 && walker.side.initial_gradient != nullptr) {
    for_state_elements(walker, [&](int half, int tile, int i, int64_t index) {
      walker.side.initial_gradient[index] = gradient[half][tile][i];
    });
  }
}

// Before the roles part: the barriers, and that the other block of a cluster sees them.
template <int slots, int columns>
__device__ __forceinline__ void prepare_barriers(uint32_t shared, bool is_clustered) {
  using Tiles = WalkTiles<slots, columns>;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < Tiles::stages; ++stage) {
      init_barrier(shared + uint32_t(Tiles::full + stage * 8), 1);
      init_barrier(shared + uint32_t(Tiles::active + stage * 8), activating_warps);
      init_barrier(shared + uint32_t(Tiles::empty + stage * 8), readers_of_stages);
    }
    for (int i = 0; i < 2 * groups; ++i) {
      init_barrier(shared + uint32_t(Tiles::handed + i * 8), 1);
    }
    publish_barriers();
  }
  __syncthreads();
  if (is_clustered) {
    sync_cluster();
  }
}

// A block that walks a sequence, or a segment of one.
template <int slots, int columns, WalkKind kind>
__global__ void __launch_bounds__(threads, 1) walk_kernel(const __grid_constant__ WalkArgs args) {
  using Tiles = WalkTiles<slots, columns>;
  constexpr bool only_sums = kind == WalkKind::sums;
  extern __shared__ __align__(1024) unsigned char memory[];
  const int thread = static_cast<int>(threadIdx.x);
  const WalkPlace place(args.of, groups * columns, thread % warp_size);
  if (place.is_empty() || (only_sums && place.segment == 0)) {
    return;
  }
  const uint32_t shared = shared_address(memory);
  prepare_barriers<slots, columns>(shared, !only_sums && args.of.plan.cluster != 1);
  if (thread >= groups * warpgroup_threads) {
    give_registers<Tiles::copier_registers>();
    if (thread == copying_warp * warp_size) {
      StageTurn turn{.phase = 1};  // the first waits for nothing
      copy_tiles<slots, columns, only_sums>(args, place, shared, turn);
    } else if (!only_sums && thread >= (copying_warp + 1) * warp_size &&
               args.of.sides[place.side].activates_written) {
      StageTurn turn{.phase = 0};
      activate_written<slots, columns>(place, shared, turn);
    }
  } else {
    take_registers<Tiles::walker_registers>();
    WalkProgress progress;
    walk<slots, columns, kind>(Walker<slots, columns>(args, place, memory), progress);
  }
}

// A block of a team, which goes through its pieces.
template <int slots, int columns>
__global__ void __launch_bounds__(threads, 1) team_kernel(const __grid_constant__ WalkArgs args) {
  using Tiles = WalkTiles<slots, columns>;
  constexpr int width = groups * columns;
  extern __shared__ __align__(1024) unsigned char memory[];
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % warp_size;
  const uint32_t shared = shared_address(memory);
  prepare_barriers<slots, columns>(shared, true);
  if (thread >= groups * warpgroup_threads) {
    give_registers<Tiles::copier_registers>();
    const bool copies = thread / warp_size == copying_warp;
    StageTurn turn{.phase = copies ? 1 : 0};
    WalkPieces pieces(args.of, width, lane);
#pragma unroll 1
    while (pieces.any()) {
      const WalkPlace place = pieces.next();
      if (copies && lane == 0) {
        copy_tiles<slots, columns, false>(args, place, shared, turn);
      } else if (!copies && args.of.sides[place.side].activates_written) {
        activate_written<slots, columns>(place, shared, turn);
      }
      __syncwarp();
    }
  } else {
    take_registers<Tiles::walker_registers>();
    WalkProgress progress;
    WalkPieces pieces(args.of, width, lane);
#pragma unroll 1
    while (pieces.any()) {
      const WalkPlace place = pieces.next();
      walk<slots, columns, WalkKind::pieces>(Walker<slots, columns>(args, place, memory), progress,
                                             &pieces);
    }
  }
}

template <int slots, int columns>
void launch(cudaStream_t stream, const GsaSizes& sizes, const GsaWalkArgs& args) {
  WalkArgs walk{args, {}, {}};
  const int64_t by_query = sizes.chunks * sizes.query_heads * gsa_chunk;
  // Without chunks, states are copied and no tile.
  for (int i = 0; i < 2 && sizes.chunks > 0; ++i) {
    const GsaWalkSide& side = args.sides[i];
    walk.maps[i] = {map_rows_by_head(side.written, sizes.heads, args.tokens),
                    map_rows_by_head(side.readers, sizes.query_heads, args.tokens),
                    map_matrix(side.weights, by_query, gsa_chunk),
                    map_matrix(side.operands, by_query, slots)};
  }
  if (sizes.chunks > 0) {
    walk.end_key_gate =
        map_matrix(args.gates.end_key_gate, sizes.chunks * sizes.heads * gsa_chunk, slots);
  }
  const GsaWalkPlan& plan = args.plan;
  const auto cluster = static_cast<unsigned>(plan.cluster);
  constexpr int memory_bytes = WalkTiles<slots, columns>::memory_bytes;
  if (plan.teams > 0) {
    check(cudaMemsetAsync(args.team_flags, 0, size_t(plan.teams * plan.cluster) * sizeof(int),
                          stream),
          "gsa walk");
    launch_with_memory(team_kernel<slots, columns>,
                       dim3(static_cast<unsigned>(plan.teams) * cluster), threads, memory_bytes,
                       stream, walk, "gsa walk of pieces", cluster);
    return;
  }
  const dim3 grid(static_cast<unsigned>(plan.slices), static_cast<unsigned>(plan.heads),
                  static_cast<unsigned>(args.sequences * plan.segments));
  if (plan.segments > 1) {
    launch_with_memory(walk_kernel<slots, columns, WalkKind::sums>, grid, threads, memory_bytes,
                       stream, walk, "gsa walk of segments");
  }
  launch_with_memory(walk_kernel<slots, columns, WalkKind::whole>, grid, threads, memory_bytes,
                     stream, walk, "gsa walk", cluster);
}

}  // namespace

void launch_gsa_walk(cudaStream_t stream, const GsaSizes& sizes, const GsaWalkArgs& args) {
  if (args.sequences == 0) {
    return;
  }
  if (sizes.slots != gsa_tile) {
    launch<128, 64>(stream, sizes, args);
  } else if (args.plan.columns == gsa_tile) {
    launch<64, 64>(stream, sizes, args);
  } else {
    launch<64, 128>(stream, sizes, args);
  }
}

}  // namespace gsa::kernels::cuda
