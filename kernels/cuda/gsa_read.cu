// Reading the slots by chunk in the backward pass, the mirror image of the forward read-outs:
//
//   acc = dO V_0^T + tril(dO V^T) G       V_0, K_0: states [slots, dim], G = s e^-b
//   dp = e^b acc,  du = p (dp - <p, dp>), r = scale du
//   dQ = (r e^b) K_0 + tril((r e^b) G^T) K
//   projected: q, k and v are swish of the rows that come, applied where they land, and dQ is
//   multiplied by its slope on the way out
//
// and what the walk and the gate's gradient take from a chunk's scores (gsa_read_backward.h).
//
// A block does one chunk, a warpgroup one query head: one or, where those of a group share states,
// two `members` side by side, so that gate, states, v and k come to the multiprocessor once for
// both. A warp has 16 tokens and keeps most of what is between the tiles in registers: the
// accumulators of one product are the left operand of the next; e^b, which all need several times,
// lies in shared memory. Tiles of 64 dimensions of dO, V, V_0, then K, K_0 come through shared
// memory, two stages, both on their way whenever the tensor cores are not at work on one. Steep
// slots (GsaGates) have G = 0 and are added pair by pair, after the products.
//
// At B8 T2048 H4 K=V=512 M64: 1,024 blocks, 73 KB of shared memory, 3 blocks a multiprocessor; 460
// MB read and written, 20 GFLOP. At H32/8 K=V=128: 4,096 blocks of two heads, 106 KB, 2 blocks a
// multiprocessor; 0.93 GB of memory, 1.08 GB through the L2 cache (1.7 GB with blocks of one head).
#include "kernels/cuda/gsa_read_backward.h"

namespace gsa::kernels::cuda {
namespace {

using namespace read_chunks;

// Where a block is, and the tiles that it copies to shared memory: first_tiles of one side, then
// second_tiles of the other.
template <int slots, int members>
struct ReadBlock {
  using Tiles = ReadTiles<slots, members>;
  const GsaReadArgs& args;
  GsaChunk place;
  int64_t chunk;
  int query_head;  // the first of the members
  int head;
  int state_head;
  int thread;
  int member;  // this thread's
  uint32_t shared;
  int first_tiles;
  int second_tiles;

  __device__ ReadBlock(const GsaReadArgs& read, unsigned char* memory)
      : args(read),
        chunk(static_cast<int>(blockIdx.x) / (read.query_heads / members)),
        query_head(static_cast<int>(blockIdx.x) % (read.query_heads / members) * members),
        head(query_head / (read.query_heads / read.gates.heads)),
        state_head(query_head / (read.query_heads / read.state_heads)),
        thread(static_cast<int>(threadIdx.x)),
        member(thread / warpgroup_threads),
        shared(shared_address(memory)),
        first_tiles(read.first.padded_dim / panel_columns),
        second_tiles(read.second.padded_dim / panel_columns) {
    place = read.gates.chunks[chunk];
  }

  __device__ uint32_t stage_offset(int tile) const {
    return uint32_t(Tiles::ring + tile % Tiles::stages * Tiles::stage_bytes);
  }
  __device__ uint32_t stage(int tile) const { return shared + stage_offset(tile); }
  __device__ void fetch_gate(const ChunkGate<slots>& gate) const {
    const bfloat16* key_gate =
        args.gates.key_gate + (chunk * args.gates.heads + head) * chunk_rows * slots;
#pragma unroll
    for (int panel = 0; panel < Tiles::panels; ++panel) {
      copy_panel<chunk_rows, Tiles::threads>(shared + Tiles::gate + panel * panel_bytes,
                                             key_gate + panel * panel_columns, slots, chunk_rows,
                                             panel_columns, thread);
    }
    if constexpr (ChunkFade<slots>::is_kept) {
      ChunkFade<slots>::template fetch<Tiles::threads>(shared + Tiles::fade, gate.decay, thread);
    }
  }
  // Begins copying a tile, if there is one.
  __device__ void fetch(int tile) const {
    if (tile < first_tiles) {
      const int column = tile * panel_columns;
#pragma unroll
      for (int i = 0; i < members; ++i) {
        fetch_rows(args.queries, query_head + i, column, stage(tile) + i * panel_bytes);
      }
      fetch_side(args.first, column, stage(tile));
    } else if (tile < first_tiles + second_tiles) {
      fetch_side(args.second, (tile - first_tiles) * panel_columns, stage(tile));
    }
    commit_copies();
  }
  // Waits for a tile, puts what this thread copied of v and k through swish, and lets all see it.
  __device__ void begin_tile(int tile) const {
    wait_copies<Tiles::stages - 1>();
    if (args.projected) {
      swish_panel<chunk_rows, Tiles::threads>(stage(tile) + Tiles::rows, thread);
    }
    publish_shared();
    __syncthreads();
  }

 private:
  __device__ void fetch_rows(const HeadRows<const bfloat16>& rows, int of_head, int column,
                             uint32_t target) const {
    copy_panel<chunk_rows, Tiles::threads>(target, rows.at(place.begin, of_head) + column,
                                           rows.stride, place.length, rows.dim - column, thread);
  }
  __device__ void fetch_side(const GsaReadSide& side, int column, uint32_t target) const {
    fetch_rows(side.rows, head, column, target + Tiles::rows);
    const bfloat16* states =
        side.states + (chunk * args.state_heads + state_head) * slots * side.padded_dim + column;
    copy_panel<slots, Tiles::threads>(target + Tiles::states, states, side.padded_dim, slots,
                                      panel_columns, thread);
  }
};

// a = Y X^T, acc = Y S_0^T, over the tiles of the first side. The next but one takes the place of a
// tile that has been used, except the last one's: that is free, and the second side's first tile
// on its way.
template <int slots, int members>
__device__ void read_first_side(const ReadBlock<slots, members>& block, StripAccumulator& a,
                                SlotAccumulator<slots>& acc) {
  using Tiles = ReadTiles<slots, members>;
  clear(a, panel_tiles);
  clear(acc, SlotTiles<slots>::tiles);
#pragma unroll 1
  for (int tile = 0; tile < block.first_tiles; ++tile) {
    block.begin_tile(tile);
    const uint32_t stage = block.stage(tile);
    const uint32_t queries = stage + uint32_t(block.member * panel_bytes);
    begin_products();
    warpgroup_panels<PanelRows::columns, PanelRows::columns>(a, queries, stage + Tiles::rows);
#pragma unroll
    for (int panel = 0; panel < Tiles::panels; ++panel) {
      warpgroup_panels<PanelRows::columns, PanelRows::columns>(
          acc + panel * panel_tiles, queries, stage + Tiles::states + panel * panel_bytes);
    }
    commit_products();
    wait_products();
    __syncthreads();
    if (tile + 1 < block.first_tiles) {
      block.fetch(tile + Tiles::stages);
    }
  }
  hold(a, panel_tiles);
  hold(acc, SlotTiles<slots>::tiles);
}

// dp, and tril(dO V^T) in its tile; on the way tril(Q K^T) is asked for, if it has not been.
template <int slots, int members>
__device__ void find_gradients(const ReadBlock<slots, members>& block,
                               const ReadStrip<slots>& strip, const OwnTiles<slots>& own,
                               uint32_t gate_panels, SlotAccumulator<slots>& dp,
                               KeptScores<slots>& kept) {
  StripOperand weights;
  {
    StripAccumulator a;
    read_first_side(block, a, dp);
    mask_later(strip, a);
    to_operand(weights, a);
  }
  if constexpr (ReadTiles<slots, members>::late_scores) {
    kept.load_products(strip);
  }
  begin_products();
#pragma unroll
  for (int panel = 0; panel < SlotTiles<slots>::panels; ++panel) {
    warpgroup_panel<PanelRows::depth>(dp + panel * panel_tiles, weights,
                                      gate_panels + panel * panel_bytes);
  }
  commit_products();
  wait_products();
  hold(dp, SlotTiles<slots>::tiles);
  unsigned char* products = own.value_products + strip.row * panel_row_bytes;
  write_strip(products, weights, strip.lane);
  apply_gate(strip, products, dp);
}

// out = (r e^b) S_0' + weights X', tile by tile of the second side.
template <int slots, int members>
__device__ void write_output(const ReadBlock<slots, members>& block, const ReadStrip<slots>& strip,
                             const SlotOperand<slots>& gated, const StripOperand& weights,
                             unsigned char* scratch) {
  using Tiles = ReadTiles<slots, members>;
  const HeadRows<bfloat16>& output = block.args.output;
  const int query_head = block.query_head + block.member;
  const int token = block.place.begin + strip.row;
  const int rows = block.place.length - strip.row;
#pragma unroll 1
  for (int tile = block.first_tiles; tile < block.first_tiles + block.second_tiles; ++tile) {
    const int column = (tile - block.first_tiles) * panel_columns;
    SwishInputs inputs;
    if (block.args.projected) {
      const HeadRows<const bfloat16>& x = block.args.output_inputs;
      inputs.load(x.at(token, query_head) + column, x.stride, rows, x.dim - column, strip.lane);
    }
    block.begin_tile(tile);
    const uint32_t stage = block.stage(tile);
    StripAccumulator out;
    clear(out, panel_tiles);
    begin_products();
#pragma unroll
    for (int panel = 0; panel < Tiles::panels; ++panel) {
      warpgroup_panel<PanelRows::depth>(out, gated[panel],
                                        stage + Tiles::states + panel * panel_bytes);
    }
    warpgroup_panel<PanelRows::depth>(out, weights, stage + Tiles::rows);
    commit_products();
    wait_products();
    hold(out, panel_tiles);
    __syncthreads();
    block.fetch(tile + Tiles::stages);
    const auto store = [&](const auto& change) {
      store_strip(out, scratch, output.at(token, query_head) + column, output.stride, rows,
                  output.dim - column, strip.lane, change);
    };
    if (block.args.projected) {
      store([&](uint4 piece, int i) { return times_swish_slope(piece, inputs.pieces[i]); });
    } else {
      store(AsItIs{});
    }
  }
}

// The sums of the chunk's terms over all its tokens, of all members.
template <int slots, int members>
__device__ void store_totals(const ReadBlock<slots, members>& block, const float* sums) {
  if (block.thread < slots) {
    float total = 0.0F;
#pragma unroll
    for (int i = 0; i < ReadTiles<slots, members>::warps; ++i) {
      total += sums[i * slots + block.thread];
    }
    block.args.own_totals[int64_t(blockIdx.x) * slots + block.thread] = total;
  }
}

// Backward, from dp (`acc`) and u: what the walk needs of both sides, and what the chunk's own
// tokens give of the gate's gradient; and the operands of dQ. tril(dO V^T) and tril(Q K^T) are in
// their tiles.
template <int slots, int members>
__device__ void make_gradients(const ReadBlock<slots, members>& block,
                               const ReadStrip<slots>& strip, unsigned char* memory,
                               const OwnTiles<slots>& own, const SlotAccumulator<slots>& scores,
                               SlotAccumulator<slots>& acc, SlotOperand<slots>& gated,
                               StripOperand& weights) {
  using Tiles = ReadTiles<slots, members>;
  const GsaReadArgs& args = block.args;
  SlotAccumulator<slots> terms;
  turn_backward(strip, own, scores, acc, terms);
  store_rows(strip, own.probabilities, args.gated_probabilities);
  store_rows(strip, own.score_gradients, args.gated_gradients);
  publish_shared();
  strip.template sync_member<members>();
  unsigned char* gate[Tiles::panels];
#pragma unroll
  for (int panel = 0; panel < Tiles::panels; ++panel) {
    gate[panel] = memory + Tiles::gate + panel * panel_bytes;
  }
  SteepShare<SlotTiles<slots>::tiles> steep_kept;
  read_own_gradients(strip, own, gate, acc, terms, steep_kept);
  sum_rows(strip, terms);
  float* sums = reinterpret_cast<float*>(memory + Tiles::sums);
  sum_strips<members>(strip, sums, terms);
  make_own_gradients(strip, acc, steep_kept, terms);
  float* own_gradients = args.own_gradients + int64_t(blockIdx.x) * chunk_rows * slots;
  if constexpr (members == 1) {
    store_totals(block, sums);
    store_own_gradients(strip, terms, own_gradients);
  } else {
    __syncthreads();
    store_totals(block, sums);
    if (block.member > 0) {
      hand_gradients(strip, terms);
    }
    __syncthreads();
    if (block.member == 0) {
      add_handed(strip, terms);
      store_own_gradients(strip, terms, own_gradients);
    }
  }
  const uint32_t gate_panels = block.shared + Tiles::gate;
  read_weights(strip, gate_panels, own.probabilities, args.probabilities, weights);
  store_weights(strip, weights, args.value_weights);
  read_weights(strip, gate_panels, own.score_gradients, args.score_gradients, weights);
  store_weights(strip, weights, args.key_weights);
#pragma unroll
  for (int panel = 0; panel < Tiles::panels; ++panel) {
#pragma unroll
    for (int step = 0; step < panel_steps; ++step) {
      load_step(gated[panel][step], shared_address(own.score_gradients[panel]), strip.row, step,
                strip.lane);
    }
  }
}

// This warp's part of the block's work; which slots are steep is not known yet.
template <int slots, int members>
__device__ ReadStrip<slots> make_strip(const ReadBlock<slots, members>& block,
                                       const ChunkGate<slots>& gate, unsigned char* memory) {
  using Tiles = ReadTiles<slots, members>;
  const int lane = block.thread % warp_size;
  const int warp = block.thread / warp_size;
  const int row = block.thread % warpgroup_threads / warp_size * strip_rows;
  const int64_t chunk_head = block.chunk * block.args.query_heads + block.query_head + block.member;
  const uint32_t scratch =
      Tiles::has_scratch ? uint32_t(Tiles::scratch) : block.stage_offset(block.first_tiles - 1);
  return {gate,
          block.args,
          lane,
          row,
          LanePlace(lane),
          false,
          0,
          (chunk_head * chunk_rows + row) * slots,
          memory + scratch + warp * Tiles::scratch_bytes,
          block.shared + uint32_t(Tiles::fade),
          block.member};
}

template <int slots, int members>
__global__ void __launch_bounds__(members* warpgroup_threads,
                                  ReadTiles<slots, members>::resident_blocks)
    read_backward_kernel(const __grid_constant__ GsaReadArgs args) {
  using Tiles = ReadTiles<slots, members>;
  extern __shared__ __align__(1024) unsigned char memory[];
  const ReadBlock<slots, members> block(args, memory);
  const ChunkGate<slots> gate(args.gates, block.chunk, block.place, block.head);
  block.fetch_gate(gate);
#pragma unroll
  for (int tile = 0; tile < Tiles::stages; ++tile) {
    block.fetch(tile);
  }
  ReadStrip<slots> strip = make_strip(block, gate, memory);
  KeptScores<slots> kept;
  if constexpr (Tiles::late_scores) {
    kept.prefetch(strip);
  } else {
    kept.load_products(strip);
    kept.load_scores(strip);
  }
  wait_copies<Tiles::stages - 1>();
  strip.find_steep(receive_fade<Tiles::threads>(gate, memory + Tiles::fade, block.thread));
  SlotOperand<slots> gated;
  StripOperand weights;
  {
    const OwnTiles<slots> own(Tiles{}, memory, memory + block.stage_offset(block.first_tiles - 1),
                              memory + block.stage_offset(block.first_tiles), block.member);
    const uint32_t gate_panels = block.shared + Tiles::gate;
    SlotAccumulator<slots> acc;
    find_gradients(block, strip, own, gate_panels, acc, kept);
    SlotAccumulator<slots> scores;
    find_scores<Tiles::late_scores>(strip, own, gate_panels, kept, scores);
    make_gradients(block, strip, memory, own, scores, acc, gated, weights);
  }
  __syncthreads();  // all are through with their own tiles
  block.fetch(block.first_tiles + 1);
  write_output(block, strip, gated, weights,
               memory + Tiles::gate + block.thread / warp_size * strip_bytes);
  wait_copies<0>();
}

template <int slots, int members>
void launch(cudaStream_t stream, const GsaSizes& sizes, const GsaReadArgs& args) {
  using Tiles = ReadTiles<slots, members>;
  const dim3 grid(static_cast<unsigned>(sizes.chunks * sizes.query_heads / members));
  launch_with_memory(read_backward_kernel<slots, members>, grid, Tiles::threads,
                     Tiles::memory_bytes, stream, args, "gsa read");
}

}  // namespace

void launch_gsa_read(cudaStream_t stream, const GsaSizes& sizes, const GsaReadArgs& args) {
  if (sizes.chunks == 0) {
    return;
  }
  if (sizes.slots != gsa_tile) {
    launch<128, 1>(stream, sizes, args);
  } else if (sizes.side_by_side == 1) {
    launch<64, 1>(stream, sizes, args);
  } else {
    launch<64, 2>(stream, sizes, args);
  }
}

}  // namespace gsa::kernels::cuda
