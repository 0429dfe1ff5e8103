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
// A block, one warpgroup, does one chunk and query head; a warp has 16 tokens and keeps most of
// what is between the tiles in registers: the accumulators of one product are the left operand of
// the next. Tiles of 64 dimensions of dO, V, V_0, then K, K_0 come through shared memory, `stages`
// deep. Steep slots (GsaGates) have G = 0 and are added pair by pair, after the products.
//
// At B8 T2048 H4 K=V=512 M64: 1,024 blocks, 72 KB of shared memory, 3 blocks a multiprocessor; 490
// MB read and written, 20 GFLOP.
#include "kernels/cuda/gsa_read_backward.h"

namespace gsa::kernels::cuda {
namespace {

using namespace read_chunks;

// Where a block is, and the tiles that it copies to shared memory: first_tiles of one side, then
// second_tiles of the other.
template <int slots>
struct ReadBlock {
  using Tiles = ReadTiles<slots>;
  const GsaReadArgs& args;
  GsaChunk place;
  int64_t chunk;
  int query_head;
  int head;
  int state_head;
  int thread;
  uint32_t shared;
  int first_tiles;
  int second_tiles;

  __device__ ReadBlock(const GsaReadArgs& read, unsigned char* memory)
      : args(read),
        chunk(static_cast<int>(blockIdx.x) / read.query_heads),
        query_head(static_cast<int>(blockIdx.x) % read.query_heads),
        head(query_head / (read.query_heads / read.gates.heads)),
        state_head(query_head / (read.query_heads / read.state_heads)),
        thread(static_cast<int>(threadIdx.x)),
        shared(shared_address(memory)),
        first_tiles(read.first.padded_dim / panel_columns),
        second_tiles(read.output.data == nullptr ? 0 : read.second.padded_dim / panel_columns) {
    place = read.gates.chunks[chunk];
  }

  __device__ uint32_t stage(int tile) const {
    return shared + uint32_t(Tiles::ring + tile % stages * Tiles::stage_bytes);
  }
  __device__ void fetch_gate() const {
    const bfloat16* key_gate =
        args.gates.key_gate + (chunk * args.gates.heads + head) * chunk_rows * slots;
#pragma unroll
    for (int panel = 0; panel < Tiles::panels; ++panel) {
      copy_panel<chunk_rows, threads>(shared + Tiles::gate + panel * panel_bytes,
                                      key_gate + panel * panel_columns, slots, chunk_rows,
                                      panel_columns, thread);
    }
  }
  // Backward: tril(Q K^T) of the forward pass.
  __device__ void fetch_key_products() const {
    const bfloat16* products =
        args.key_products + (chunk * args.query_heads + query_head) * chunk_rows * chunk_rows;
    copy_panel<chunk_rows, threads>(shared + Tiles::key_products, products, chunk_rows, chunk_rows,
                                    panel_columns, thread);
  }
  // Begins copying a tile, if there is one.
  __device__ void fetch(int tile) const {
    if (tile < first_tiles) {
      fetch_rows(args.queries, query_head, tile * panel_columns, stage(tile));
      fetch_side(args.first, tile * panel_columns, stage(tile));
    } else if (tile < first_tiles + second_tiles) {
      fetch_side(args.second, (tile - first_tiles) * panel_columns, stage(tile));
    }
    commit_copies();
  }
  // Once a tile has landed, before the barrier: swish of what this thread copied of v and k.
  __device__ void activate(int tile) const {
    if (args.projected) {
      swish_panel<chunk_rows, threads>(stage(tile) + panel_bytes, thread);
    }
  }

 private:
  __device__ void fetch_rows(const HeadRows<const bfloat16>& rows, int of_head, int column,
                             uint32_t target) const {
    copy_panel<chunk_rows, threads>(target, rows.at(place.begin, of_head) + column, rows.stride,
                                    place.length, rows.dim - column, thread);
  }
  __device__ void fetch_side(const GsaReadSide& side, int column, uint32_t target) const {
    fetch_rows(side.rows, head, column, target + panel_bytes);
    const bfloat16* states =
        side.states + (chunk * args.state_heads + state_head) * slots * side.padded_dim + column;
    copy_panel<slots, threads>(target + 2 * panel_bytes, states, side.padded_dim, slots,
                               panel_columns, thread);
  }
};

// Waits for a tile, and for the products of the one before it, whose place the next may then take.
template <int slots>
__device__ void next_tile(const ReadBlock<slots>& block, int tile) {
  wait_copies<stages - 2>();
  block.activate(tile);
  publish_shared();
  wait_products();
  __syncthreads();
  block.fetch(tile + stages - 1);
}

// a = Y X^T, acc = Y S_0^T, over the tiles of the first side.
template <int slots>
__device__ void read_first_side(const ReadBlock<slots>& block, StripAccumulator& a,
                                SlotAccumulator<slots>& acc) {
  clear(a, panel_tiles);
  clear(acc, ReadTiles<slots>::tiles);
#pragma unroll 1
  for (int tile = 0; tile < block.first_tiles; ++tile) {
    next_tile(block, tile);
    const uint32_t stage = block.stage(tile);
    begin_products();
    warpgroup_panels<PanelRows::columns, PanelRows::columns>(a, stage, stage + panel_bytes);
#pragma unroll
    for (int panel = 0; panel < ReadTiles<slots>::panels; ++panel) {
      warpgroup_panels<PanelRows::columns, PanelRows::columns>(acc + panel * panel_tiles, stage,
                                                               stage + (2 + panel) * panel_bytes);
    }
    commit_products();
  }
  wait_products();
  hold(a, panel_tiles);
  hold(acc, ReadTiles<slots>::tiles);
}

// out = (r e^b) S_0' + weights X', tile by tile of the second side.
template <int slots>
__device__ void write_output(const ReadBlock<slots>& block, const ReadStrip<slots>& strip,
                             const SlotOperand<slots>& gated, const StripOperand& weights,
                             unsigned char* scratch) {
  const HeadRows<bfloat16>& output = block.args.output;
  const int token = block.place.begin + strip.row;
  const int rows = block.place.length - strip.row;
#pragma unroll 1
  for (int tile = block.first_tiles; tile < block.first_tiles + block.second_tiles; ++tile) {
    next_tile(block, tile);
    const uint32_t stage = block.stage(tile);
    const int column = (tile - block.first_tiles) * panel_columns;
    SwishInputs inputs;
    if (block.args.projected) {
      const HeadRows<const bfloat16>& x = block.args.output_inputs;
      inputs.load(x.at(token, block.query_head) + column, x.stride, rows, x.dim - column,
                  strip.lane);
    }
    StripAccumulator out;
    clear(out, panel_tiles);
    begin_products();
#pragma unroll
    for (int panel = 0; panel < ReadTiles<slots>::panels; ++panel) {
      warpgroup_panel<PanelRows::depth>(out, gated[panel], stage + (2 + panel) * panel_bytes);
    }
    warpgroup_panel<PanelRows::depth>(out, weights, stage + panel_bytes);
    commit_products();
    wait_products();
    hold(out, panel_tiles);
    const auto store = [&](const auto& change) {
      store_strip(out, scratch, output.at(token, block.query_head) + column, output.stride, rows,
                  output.dim - column, strip.lane, change);
    };
    if (block.args.projected) {
      store([&](uint4 piece, int i) { return times_swish_slope(piece, inputs.pieces[i]); });
    } else {
      store(AsItIs{});
    }
  }
}

// Backward, from dp (`acc`) and tril(dO V^T) (`weights`): what the walk needs of both sides, and
// what the chunk's own tokens give of the gate's gradient; and the operands of dQ.
template <int slots>
__device__ void make_gradients(const ReadBlock<slots>& block, const ReadStrip<slots>& strip,
                               unsigned char* memory, const SlotAccumulator<slots>& fade,
                               StripOperand& weights, SlotAccumulator<slots>& acc,
                               SlotOperand<slots>& gated) {
  using Tiles = ReadTiles<slots>;
  const GsaReadArgs& args = block.args;
  const OwnTiles<slots> own(memory, memory + (block.stage(block.first_tiles - 1) - block.shared));
  write_strip(own.value_products + strip.row * panel_row_bytes, weights, strip.lane);
  SlotAccumulator<slots> terms;
  turn_backward(strip, own, fade, acc, terms);
  store_rows(strip, own.probabilities, args.gated_probabilities);
  store_rows(strip, own.score_gradients, args.gated_gradients);
  publish_shared();
  __syncthreads();
  unsigned char* gate[Tiles::panels];
#pragma unroll
  for (int panel = 0; panel < Tiles::panels; ++panel) {
    gate[panel] = memory + Tiles::gate + panel * panel_bytes;
  }
  read_own_gradients(strip, own, gate, fade, acc, terms);
  sum_rows(strip, terms);
  store_own_gradients(strip, memory + Tiles::scratch, acc, terms);
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

template <int slots>
__global__ void __launch_bounds__(threads, ReadTiles<slots>::resident_blocks)
    read_kernel(const __grid_constant__ GsaReadArgs args) {
  using Tiles = ReadTiles<slots>;
  extern __shared__ __align__(1024) unsigned char memory[];
  const ReadBlock<slots> block(args, memory);
  block.fetch_gate();
  block.fetch_key_products();
#pragma unroll
  for (int tile = 0; tile < stages - 1; ++tile) {
    block.fetch(tile);
  }
  const int lane = block.thread % warp_size;
  const int warp = block.thread / warp_size;
  const ChunkGate<slots> gate(args.gates, block.chunk, block.place, block.head);
  const bool any_steep = __syncthreads_or(block.thread < slots && gate.is_steep(block.thread)) != 0;
  const int64_t base =
      ((block.chunk * args.query_heads + block.query_head) * chunk_rows + warp * strip_rows) *
      slots;
  const ReadStrip<slots> strip{gate,
                               args,
                               lane,
                               warp * strip_rows,
                               LanePlace(lane),
                               any_steep,
                               base,
                               memory + Tiles::scratch + warp * Tiles::scratch_bytes};
  prefetch_scores(strip);
  SlotOperand<slots> gated;
  StripOperand weights;
  {
    StripAccumulator a;
    SlotAccumulator<slots> acc;
    read_first_side(block, a, acc);
    __syncthreads();
    mask_later(strip, a);
    to_operand(weights, a);
    begin_products();
#pragma unroll
    for (int panel = 0; panel < Tiles::panels; ++panel) {
      warpgroup_panel<PanelRows::depth>(acc + panel * panel_tiles, weights,
                                        block.shared + Tiles::gate + panel * panel_bytes);
    }
    commit_products();
    wait_products();
    hold(acc, Tiles::tiles);
    apply_gate(strip, weights, acc);
    SlotAccumulator<slots> fade;
    load_fade(strip, fade);
    make_gradients(block, strip, memory, fade, weights, acc, gated);
  }
  write_output(block, strip, gated, weights, memory + Tiles::gate + warp * strip_bytes);
  wait_copies<0>();
}

template <int slots>
void launch(cudaStream_t stream, const GsaSizes& sizes, const GsaReadArgs& args) {
  const dim3 grid(static_cast<unsigned>(sizes.chunks * sizes.query_heads));
  launch_with_memory(read_kernel<slots>, grid, threads, ReadTiles<slots>::memory_bytes, stream,
                     args, "gsa read");
}

}  // namespace

void launch_gsa_read(cudaStream_t stream, const GsaSizes& sizes, const GsaReadArgs& args) {
  if (sizes.chunks == 0) {
    return;
  }
  if (sizes.slots == gsa_tile) {
    launch<64>(stream, sizes, args);
  } else {
    launch<128>(stream, sizes, args);
  }
}

}  // namespace gsa::kernels::cuda
