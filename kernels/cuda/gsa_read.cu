// Reading the slots by chunk: both passes of the forward form, and their mirror image backward.
//
//   acc = Y S_0^T + tril(Y X^T) G         Y: q (dO), X: k (v), S_0: states [slots, dim], G = s e^-b
//   forward:   u = scale e^b acc, p = softmax(u), r = p
//   backward:  dp = e^b acc,  du = p (dp - <p, dp>), r = scale du
//   out = (r e^b) S_0' + tril((r e^b) G^T) X'   X', S_0' of the other side: O, or dQ
//   projected: q, k and v are swish of the rows that come, applied where they land, and dQ is
//   multiplied by its slope on the way out
//
// A block of four warps does one chunk and query head; a warp has 16 tokens and keeps everything
// between the tiles in registers: the accumulators of one product are the left operand of the next.
// Tiles of 64 dimensions of Y, X, S_0 (then X', S_0') come through shared memory, `stages` deep.
// Steep slots (GsaGates) have G = 0 and are added pair by pair, after the products.
//
// At B8 T2048 H4 K=V=512 M64: 1,024 blocks, 64 KB of shared memory, 3 blocks a multiprocessor;
// forward 385 MB read and written (0.12 ms at 3.3 TB/s), 17 GFLOP; backward 460 MB.
#include "kernels/cuda/gsa_read_strip.h"

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
  // Once a tile has landed, before the barrier: swish of what this thread copied of q, k and v.
  template <bool backward>
  __device__ void activate(int tile) const {
    if (!args.projected) {
      return;
    }
    if (!backward && tile < first_tiles) {
      swish_panel<chunk_rows, threads>(stage(tile), thread);
    }
    swish_panel<chunk_rows, threads>(stage(tile) + panel_bytes, thread);
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

// a = Y X^T, acc = Y S_0^T, over the tiles of the first side.
template <bool backward, int slots>
__device__ void read_first_side(const ReadBlock<slots>& block, const ReadStrip<slots>& strip,
                                StripAccumulator& a, SlotAccumulator<slots>& acc) {
  clear(a, panel_tiles);
  clear(acc, ReadTiles<slots>::tiles);
#pragma unroll 1
  for (int tile = 0; tile < block.first_tiles; ++tile) {
    wait_copies<stages - 2>();
    block.template activate<backward>(tile);
    __syncthreads();
    block.fetch(tile + stages - 1);
    const uint32_t stage = block.stage(tile);
#pragma unroll
    for (int step = 0; step < panel_steps; ++step) {
      uint32_t y[4];
      load_step(y, stage, strip.row, step, strip.lane);
      multiply_step<PanelRows::columns>(a, y, stage + panel_bytes, step, strip.lane);
#pragma unroll
      for (int panel = 0; panel < ReadTiles<slots>::panels; ++panel) {
        multiply_step<PanelRows::columns>(acc + panel * panel_tiles, y,
                                          stage + (2 + panel) * panel_bytes, step, strip.lane);
      }
    }
  }
}

// out = (r e^b) S_0' + weights X', tile by tile of the second side.
template <bool backward, int slots>
__device__ void write_output(const ReadBlock<slots>& block, const ReadStrip<slots>& strip,
                             const SlotOperand<slots>& gated, const StripOperand& weights) {
  const HeadRows<bfloat16>& output = block.args.output;
#pragma unroll 1
  for (int tile = block.first_tiles; tile < block.first_tiles + block.second_tiles; ++tile) {
    wait_copies<stages - 2>();
    block.template activate<backward>(tile);
    __syncthreads();
    block.fetch(tile + stages - 1);
    const uint32_t stage = block.stage(tile);
    StripAccumulator out;
    clear(out, panel_tiles);
#pragma unroll
    for (int panel = 0; panel < ReadTiles<slots>::panels; ++panel) {
      multiply_panel<PanelRows::depth>(out, gated[panel], stage + (2 + panel) * panel_bytes,
                                       strip.lane);
    }
    multiply_panel<PanelRows::depth>(out, weights, stage + panel_bytes, strip.lane);
    const int column = (tile - block.first_tiles) * panel_columns;
    const auto store = [&](const auto& change) {
      store_strip(
          out, strip.scratch, output.at(block.place.begin + strip.row, block.query_head) + column,
          output.stride, block.place.length - strip.row, output.dim - column, strip.lane, change);
    };
    if (backward && block.args.projected) {
      const HeadRows<const bfloat16>& x = block.args.output_inputs;
      SwishInputs inputs;
      inputs.load(x.at(block.place.begin + strip.row, block.query_head) + column, x.stride,
                  block.place.length - strip.row, x.dim - column, strip.lane);
      store([&](uint4 piece, int i) { return times_swish_slope(piece, inputs.pieces[i]); });
    } else {
      store(AsItIs{});
    }
  }
}

template <int slots, bool backward>
__global__ void __launch_bounds__(threads, ReadTiles<slots>::resident_blocks)
    read_kernel(const __grid_constant__ GsaReadArgs args) {
  using Tiles = ReadTiles<slots>;
  extern __shared__ __align__(1024) unsigned char memory[];
  const ReadBlock<slots> block(args, memory);
  block.fetch_gate();
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
  SlotOperand<slots> gated;
  StripOperand weights;
  {
    StripAccumulator a;
    SlotAccumulator<slots> acc;
    read_first_side<backward>(block, strip, a, acc);
    mask_later(strip, a);
    to_operand(weights, a);
#pragma unroll
    for (int panel = 0; panel < Tiles::panels; ++panel) {
      multiply_panel<PanelRows::depth>(acc + panel * panel_tiles, weights,
                                       block.shared + Tiles::gate + panel * panel_bytes, lane);
    }
    apply_gate(strip, weights, acc);
    if constexpr (backward) {
      turn_backward(strip, acc, gated);
    } else {
      turn_forward(strip, acc, gated);
    }
    read_weights<slots>(strip, block.shared + Tiles::gate, gated, acc, a);
    to_operand(weights, a);
  }
  write_output<backward>(block, strip, gated, weights);
  wait_copies<0>();
}

template <int slots, bool backward>
void launch(cudaStream_t stream, const GsaSizes& sizes, const GsaReadArgs& args) {
  const dim3 grid(static_cast<unsigned>(sizes.chunks * sizes.query_heads));
  launch_with_memory(read_kernel<slots, backward>, grid, threads, ReadTiles<slots>::memory_bytes,
                     stream, args, "gsa read");
}

}  // namespace

void launch_gsa_read(cudaStream_t stream, const GsaSizes& sizes, const GsaReadArgs& args,
                     bool backward) {
  if (sizes.chunks == 0) {
    return;
  }
  if (sizes.slots == gsa_tile) {
    backward ? launch<64, true>(stream, sizes, args) : launch<64, false>(stream, sizes, args);
  } else {
    backward ? launch<128, true>(stream, sizes, args) : launch<128, false>(stream, sizes, args);
  }
}

}  // namespace gsa::kernels::cuda
