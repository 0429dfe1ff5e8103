// The forward read-out of a chunk and query head, both passes with the softmax between them:
//
//   acc = q K_0 + tril(q k^T) G       K_0 [dim, slots], V_0 [slots, dim]: states at the chunk's
//   start u = scale e^b acc, p = softmax(u)                                           G = s e^-b o
//   = (p e^b) V_0 + tril((p e^b) G^T) v
//
// A warpgroup does a query head, a warp 16 tokens; a block has one or, where those of a group share
// states, two `members` side by side, which share all else too. Tiles of 64 dimensions of q, k,
// K_0, then of v, V_0, come through shared memory, two stages; in projected mode each thread puts
// what it copied of q, k, v through swish where it landed. Accumulators of one product are the left
// operand of the next without leaving the registers; e^b lies in shared memory. Steep slots
// (GsaGates) have G = 0 and are added pair by pair, after the products.
//
// For the backward pass scale e^b (q K_0) and tril(q k^T) are kept, each as it lies in the
// registers.
#pragma once

#include "kernels/cuda/gsa_read_strip.h"
#include "kernels/cuda/wgmma.h"

namespace gsa::kernels::cuda::forward_chunks {

using read_chunks::ChunkFade;
using read_chunks::fill_steep_scores;
using read_chunks::fill_steep_weights;
using read_chunks::mask_later;
using read_chunks::ReadStrip;
using read_chunks::SlotAccumulator;
using read_chunks::SlotOperand;
using read_chunks::SlotTiles;
using read_chunks::SteepShare;

template <int slots, int block_members>
struct ForwardTiles {
  static constexpr int members = block_members;  // query heads, a warpgroup each
  static constexpr int threads = members * warpgroup_threads;
  static constexpr int warps = threads / warp_size;
  static constexpr int stages = 2;
  static constexpr int panels = slots / panel_columns;
  // Of a stage: q of each member, k or v, the states.
  static constexpr int rows = members * panel_bytes;
  static constexpr int states = rows + panel_bytes;
  static constexpr int stage_bytes = states + panels * panel_bytes;
  static constexpr int gate = 0;  // G
  static constexpr int fade = gate + panels * panel_bytes;
  static constexpr int ring = fade + ChunkFade<slots>::bytes;
  static constexpr int memory_bytes = ring + stages * stage_bytes;
  static constexpr int scratch_bytes = panels * strip_bytes;  // a warp, between the sides
  static constexpr int tiles = panels * panel_tiles;
  static_assert(warps * scratch_bytes <= stage_bytes);
  // The warps' scratch for the output lies where G and e^b have been.
  static_assert(warps * strip_bytes <= ring);
};

// Where a block is, and the tiles that it copies to shared memory: of q, k and K_0, then of v and
// V_0.
template <int slots, int members>
struct ForwardBlock {
  using Tiles = ForwardTiles<slots, members>;
  const GsaReadArgs& args;
  GsaChunk place;
  int64_t chunk;
  int query_head;  // the first of the members
  int head;
  int state_head;
  int thread;
  int member;  // this thread's
  uint32_t shared;
  int key_tiles;
  int all_tiles;

  __device__ ForwardBlock(const GsaReadArgs& read, int64_t of_chunk, int of_query_head,
                          const unsigned char* memory)
      : args(read),
        place(read.gates.chunks[of_chunk]),
        chunk(of_chunk),
        query_head(of_query_head),
        head(query_head / (read.query_heads / read.gates.heads)),
        state_head(query_head / (read.query_heads / read.state_heads)),
        thread(static_cast<int>(threadIdx.x)),
        member(thread / warpgroup_threads),
        shared(shared_address(memory)),
        key_tiles(read.first.padded_dim / panel_columns),
        all_tiles(key_tiles +
                  (read.output.data == nullptr ? 0 : read.second.padded_dim / panel_columns)) {}

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
    if (tile < key_tiles) {
      const int column = tile * panel_columns;
#pragma unroll
      for (int i = 0; i < members; ++i) {
        fetch_rows(args.queries, query_head + i, column, stage(tile) + i * panel_bytes);
      }
      fetch_side(args.first, column, stage(tile));
    } else if (tile < all_tiles) {
      fetch_side(args.second, (tile - key_tiles) * panel_columns, stage(tile));
    }
    commit_copies();
  }
  // Waits for a tile, puts what this thread copied of q, k and v through swish, and lets all see
  // it.
  __device__ void begin_tile(int tile) const {
    wait_copies<Tiles::stages - 1>();
    if (args.projected) {
      if (tile < key_tiles) {
#pragma unroll
        for (int i = 0; i < members; ++i) {
          swish_panel<chunk_rows, Tiles::threads>(stage(tile) + i * panel_bytes, thread);
        }
      }
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

// a = q k^T, acc = q K_0, over the tiles of the keys. The next but one takes the place of a tile
// that has been used, except the last one's: that is scratch for a while.
template <int slots, int members>
__device__ void read_keys(const ForwardBlock<slots, members>& block, StripAccumulator& a,
                          SlotAccumulator<slots>& acc) {
  using Tiles = ForwardTiles<slots, members>;
  clear(a, panel_tiles);
  clear(acc, Tiles::tiles);
#pragma unroll 1
  for (int tile = 0; tile < block.key_tiles; ++tile) {
    block.begin_tile(tile);
    const uint32_t stage = block.stage(tile);
    const uint32_t queries = stage + uint32_t(block.member * panel_bytes);
    begin_products();
    warpgroup_panels<PanelRows::columns, PanelRows::columns>(a, queries, stage + Tiles::rows);
#pragma unroll
    for (int panel = 0; panel < Tiles::panels; ++panel) {
      warpgroup_panels<PanelRows::columns, PanelRows::columns>(
          acc + panel * panel_tiles, queries,
          stage + uint32_t(Tiles::states + panel * panel_bytes));
    }
    commit_products();
    wait_products();
    __syncthreads();
    if (tile + 1 < block.key_tiles) {
      block.fetch(tile + Tiles::stages);
    }
  }
  hold(a, panel_tiles);
  hold(acc, Tiles::tiles);
}

// acc = e^b (acc + weights G), and in steep slots + sum over j <= t of a[t, j] s_j e^{b_t - b_j}.
template <int slots, int members>
__device__ void add_own_tokens(const ForwardBlock<slots, members>& block,
                               const ReadStrip<slots>& strip, const StripOperand& weights,
                               SlotAccumulator<slots>& acc) {
  using Tiles = ForwardTiles<slots, members>;
  begin_products();
#pragma unroll
  for (int panel = 0; panel < Tiles::panels; ++panel) {
    warpgroup_panel<PanelRows::depth>(acc + panel * panel_tiles, weights,
                                      block.shared + uint32_t(Tiles::gate + panel * panel_bytes));
  }
  commit_products();
  wait_products();
  hold(acc, Tiles::tiles);
#pragma unroll
  for (int tile = 0; tile < Tiles::tiles; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float2 fade = strip.fade(tile, half);
      acc[tile][2 * half] *= fade.x;
      acc[tile][2 * half + 1] *= fade.y;
    }
  }
  if (!strip.any_steep) {
    return;
  }
  write_strip(strip.scratch, weights, strip.lane);
  __syncwarp();
  SteepShare<Tiles::tiles> share;
  fill_steep_scores<slots>(share, strip.steep_place(), strip.gate, strip.scratch);
  share.add_to(acc);
  __syncwarp();
}

// From e^b acc to u, and to p in its place.
template <int slots>
__device__ void make_probabilities(const ReadStrip<slots>& strip, SlotAccumulator<slots>& acc) {
  const float scale = strip.args.scale;
#pragma unroll
  for (int tile = 0; tile < SlotTiles<slots>::tiles; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      acc[tile][2 * half] *= scale;
      acc[tile][2 * half + 1] *= scale;
    }
  }
  read_chunks::softmax(strip, acc, 0);
  read_chunks::softmax(strip, acc, 1);
}

// gated = p e^b, weights = tril(gated G^T), with the steep slots' pairs: the operands of o.
template <int slots, int members>
__device__ void make_operands(const ForwardBlock<slots, members>& block,
                              const ReadStrip<slots>& strip, const SlotAccumulator<slots>& p,
                              SlotOperand<slots>& gated, StripOperand& weights) {
  using Tiles = ForwardTiles<slots, members>;
#pragma unroll
  for (int tile = 0; tile < Tiles::tiles; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float2 fade = strip.fade(tile, half);
      gated[tile / panel_tiles][tile % panel_tiles / 2][tile % 2 * 2 + half] =
          pack_pair(p[tile][2 * half] * fade.x, p[tile][2 * half + 1] * fade.y);
    }
  }
  StripAccumulator a;
  clear(a, panel_tiles);
  begin_products();
#pragma unroll
  for (int panel = 0; panel < Tiles::panels; ++panel) {
    warpgroup_panel<PanelRows::columns>(a, gated[panel],
                                        block.shared + uint32_t(Tiles::gate + panel * panel_bytes));
  }
  commit_products();
  wait_products();
  hold(a, panel_tiles);
  mask_later(strip, a);
  if (strip.any_steep) {
    read_chunks::write_plain(strip, p);
    SteepShare<panel_tiles> share;
    fill_steep_weights<slots>(share, strip.steep_place(), strip.gate, strip.scratch);
    share.add_to(a);
    __syncwarp();
  }
  to_operand(weights, a);
}

// o = gated V_0 + weights v, tile by tile of the values.
template <int slots, int members>
__device__ void write_output(const ForwardBlock<slots, members>& block,
                             const ReadStrip<slots>& strip, const SlotOperand<slots>& gated,
                             const StripOperand& weights, unsigned char* scratch) {
  using Tiles = ForwardTiles<slots, members>;
  const HeadRows<bfloat16>& output = block.args.output;
  bfloat16* rows = output.at(block.place.begin + strip.row, block.query_head + block.member);
#pragma unroll 1
  for (int tile = block.key_tiles; tile < block.all_tiles; ++tile) {
    block.begin_tile(tile);
    const uint32_t stage = block.stage(tile);
    StripAccumulator out;
    clear(out, panel_tiles);
    begin_products();
#pragma unroll
    for (int panel = 0; panel < Tiles::panels; ++panel) {
      warpgroup_panel<PanelRows::depth>(out, gated[panel],
                                        stage + uint32_t(Tiles::states + panel * panel_bytes));
    }
    warpgroup_panel<PanelRows::depth>(out, weights, stage + Tiles::rows);
    commit_products();
    wait_products();
    hold(out, panel_tiles);
    __syncthreads();
    block.fetch(tile + Tiles::stages);
    const int column = (tile - block.key_tiles) * panel_columns;
    store_strip(out, scratch, rows + column, output.stride, block.place.length - strip.row,
                output.dim - column, strip.lane);
  }
}

// A block's work: one chunk, `members` query heads from `query_head` on.
template <int slots, int members>
__device__ void read_chunk(const GsaReadArgs& args, int64_t chunk, int query_head,
                           unsigned char* memory) {
  using Tiles = ForwardTiles<slots, members>;
  const ForwardBlock<slots, members> block(args, chunk, query_head, memory);
  const ChunkGate<slots> gate(args.gates, chunk, block.place, block.head);
  block.fetch_gate(gate);
#pragma unroll
  for (int tile = 0; tile < Tiles::stages; ++tile) {
    block.fetch(tile);
  }
  const int warp = block.thread / warp_size;
  const int strip_row = block.thread % warpgroup_threads / warp_size * strip_rows;
  const int64_t row =
      (chunk * args.query_heads + query_head + block.member) * chunk_rows + strip_row;
  unsigned char* scratch = memory + block.stage_offset(block.key_tiles - 1);
  ReadStrip<slots> strip{gate,
                         args,
                         block.thread % warp_size,
                         strip_row,
                         LanePlace(block.thread % warp_size),
                         false,
                         0,
                         row * slots,
                         scratch + warp * Tiles::scratch_bytes,
                         block.shared + uint32_t(Tiles::fade),
                         block.member};
  wait_copies<Tiles::stages - 1>();
  strip.any_steep =
      read_chunks::receive_fade<Tiles::threads>(gate, memory + Tiles::fade, block.thread);
  SlotOperand<slots> gated;
  StripOperand weights;
  {
    SlotAccumulator<slots> acc;
    {
      StripAccumulator a;
      read_keys(block, a, acc);
      mask_later(strip, a);
      to_operand(weights, a);
    }
    if (args.state_scores != nullptr) {
      strip.keep(weights, acc);
    }
    add_own_tokens(block, strip, weights, acc);
    make_probabilities(strip, acc);
    make_operands(block, strip, acc, gated, weights);
  }
  __syncthreads();  // all are through with G, e^b and their scratch
  block.fetch(block.key_tiles + 1);
  write_output(block, strip, gated, weights, memory + Tiles::gate + warp * strip_bytes);
  wait_copies<0>();
}

}  // namespace gsa::kernels::cuda::forward_chunks
