// The gradients of what is written into the slots, by chunk: the same arithmetic for both passes.
//
//   X: v (k), Y: dO (q), r: p (scale du), G: the state's gradient at the chunk's end,
//   S_0: the state at its start, g = s e^-b, w = s e^(b_end - b)
//   dX = tril((r e^b) g^T)^T Y + w G                                           dv, dk
//   ds = e^-b (tril(Y X^T)^T (r e^b)) + e^(b_end - b) (X G^T)
//   d log alpha_t = sum over i >= t of (p dp + u du - s ds)_i + E - alpha_t ds_t
//   E = state at the chunk's end times G, summed over dimensions
//     = sum_d e^{b_end} S_0 G  +  sum_j w_j (X G^T)_j
//
// A block of eight warps does one chunk and key/value head, and the query heads of its group in
// turn; sums over the group stay in shared memory (ds) or go through memory in float32 (dX). Of
// each tile of 64 dimensions, the *gathering* warps 0 to 3 add up Y X^T and X G^T, 16 tokens a
// warp, and the *spreading* warps 4 to 7 make the tile of dX and its part of E: two products each.
// Tiles of X, Y and G come through shared memory, `stages` deep; S_0 is read once, straight into
// registers.
//
// At B8 T2048 H4 K=V=512 M64: 1,024 blocks, 110 KB of shared memory, 2 blocks a multiprocessor;
// 700 MB read and written (0.21 ms at 3.3 TB/s), 36 GFLOP.
#include "kernels/cuda/gsa_write_gather.h"

namespace gsa::kernels::cuda {
namespace {

using namespace write_chunks;

// What steep slots add to a strip of [j, t], element by element of an accumulator: the sum over
// them of r[t, m] s_j e^{b_t - b_j}. Not inlined: steep slots are rare.
template <int slots>
__device__ __noinline__ void fill_steep_weights(float* share, ChunkGate<slots> gate,
                                                const bfloat16* r, int first, int existing_slots,
                                                int lane) {
#pragma unroll 1
  for (int element = 0; element < panel_tiles * 4; ++element) {
    const int j = first + lane / 4 + element % 4 / 2 * 8;
    const int t = element / 4 * 8 + lane % 4 * 2 + element % 2;
    float sum = 0.0F;
    for (int m = 0; t >= j && t < gate.length && m < existing_slots; ++m) {
      if (gate.is_steep(m)) {
        sum += to_float(r[t * slots + m]) * gate.steep_factor(t, j, m);
      }
    }
    share[element] = sum;
  }
}

// tril((r e^b) g^T)^T of the warp's rows, with the steep slots pair by pair.
template <int slots>
__device__ void spread_weights(const WriteBlock<slots>& block, const GsaWriteSide& side,
                               StripOperand& weights) {
  using Tiles = WriteTiles<slots>;
  StripAccumulator a;
  clear(a, panel_tiles);
#pragma unroll
  for (int panel = 0; panel < Tiles::panels; ++panel) {
    multiply_panels<PanelRows::columns>(
        a, block.shared + uint32_t(Tiles::key_gate + panel * panel_bytes), block.row,
        block.shared + uint32_t(Tiles::operand + panel * panel_bytes), block.lane);
  }
  mask_earlier(block, a);
  if (block.any_steep) {
    float share[panel_tiles * 4];
    fill_steep_weights<slots>(share, block.gate, side.operands + block.slot_base(), block.row,
                              block.args.gates.slots, block.lane);
#pragma unroll
    for (int tile = 0; tile < panel_tiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        a[tile][i] += share[tile * 4 + i];
      }
    }
  }
  to_operand(weights, a);
}

// A thread's share of sum_d S_0 G over a tile: one piece of every 16th slot.
template <int slots>
struct StateShare {
  static constexpr int rows_at_once = role_threads / row_pieces;
  static constexpr int rows = slots / rows_at_once;
  int piece;
  int first;
  uint4 states[rows];
  float sums[rows] = {};

  __device__ explicit StateShare(int thread)
      : piece(thread % row_pieces), first(thread / row_pieces) {}

  __device__ void load(const bfloat16* tile, int stride) {
#pragma unroll
    for (int i = 0; i < rows; ++i) {
      states[i] = *reinterpret_cast<const uint4*>(
          tile + int64_t(first + i * rows_at_once) * stride + piece * piece_columns);
    }
  }
  __device__ void add(const unsigned char* gradients) {
#pragma unroll
    for (int i = 0; i < rows; ++i) {
      const uint4 gradient = *reinterpret_cast<const uint4*>(
          gradients + panel_offset(first + i * rows_at_once, piece));
      const uint32_t s[4] = {states[i].x, states[i].y, states[i].z, states[i].w};
      const uint32_t g[4] = {gradient.x, gradient.y, gradient.z, gradient.w};
#pragma unroll
      for (int pair = 0; pair < 4; ++pair) {
        const float2 a = unpack_pair(s[pair]);
        const float2 b = unpack_pair(g[pair]);
        sums[i] += a.x * b.x + a.y * b.y;
      }
    }
  }
};

// dX's accumulators between the query heads of a group.
__device__ void load_group_sums(const float* sums, int thread, StripAccumulator& out) {
#pragma unroll
  for (int tile = 0; tile < panel_tiles; ++tile) {
    const float4 value =
        *reinterpret_cast<const float4*>(sums + (tile * role_threads + thread) * 4);
    out[tile][0] = value.x;
    out[tile][1] = value.y;
    out[tile][2] = value.z;
    out[tile][3] = value.w;
  }
}
__device__ void store_group_sums(float* sums, int thread, const StripAccumulator& out) {
#pragma unroll
  for (int tile = 0; tile < panel_tiles; ++tile) {
    *reinterpret_cast<float4*>(sums + (tile * role_threads + thread) * 4) =
        make_float4(out[tile][0], out[tile][1], out[tile][2], out[tile][3]);
  }
}

// Columns of dX, from `column` on; in projected mode through swish.
template <int slots>
__device__ void store_gradient(const WriteBlock<slots>& block, const GsaWriteSide& side,
                               const StripAccumulator& out, unsigned char* scratch, int column) {
  const int token = block.place.begin + block.row;
  const auto store = [&](const auto& change) {
    store_strip(out, scratch, side.gradient.at(token, block.head) + column, side.gradient.stride,
                block.place.length - block.row, side.gradient.dim - column, block.lane, change);
  };
  if (side.activates_written) {
    SwishInputs x;
    x.load(side.written.at(token, block.head) + column, side.written.stride,
           block.place.length - block.row, side.written.dim - column, block.lane);
    store([&](uint4 piece, int i) { return times_swish_slope(piece, x.pieces[i]); });
  } else {
    store(AsItIs{});
  }
}

template <int slots>
__device__ void spread(const WriteBlock<slots>& block, const GsaWriteSide& side,
                       TileFetch<slots>& fetch, int64_t group_base) {
  using Tiles = WriteTiles<slots>;
  const int thread = block.thread - role_threads;
  const int state_head = block.query_head / (block.args.query_heads / block.args.state_heads);
  const bfloat16* states =
      side.states + (block.chunk * block.args.state_heads + state_head) * slots * side.padded_dim;
  unsigned char* scratch = block.memory + Tiles::key_gate + block.warp * strip_bytes;
  StateShare<slots> share(thread);
  share.load(states, side.padded_dim);
  StripOperand weights;
  const int tiles = side.padded_dim / panel_columns;
#pragma unroll 1
  for (int tile = 0; tile < tiles; ++tile) {
    wait_copies<stages - 2>();
    fetch.activate(block, side, tile);
    sync_roles();
    fetch.fetch(block, side);
    if (tile == 0) {
      spread_weights(block, side, weights);
      __syncwarp();  // the strip of g is scratch from here on
    }
    const uint32_t stage = block.stage(tile);
    float* group_sums = side.group_sums + group_base + int64_t(tile) * panel_columns * chunk_rows;
    StripAccumulator out;
    if (block.is_first) {
      clear(out, panel_tiles);
    } else {
      load_group_sums(group_sums, thread, out);
    }
    multiply_panel<PanelRows::depth>(out, weights, stage + panel_bytes, block.lane);
#pragma unroll
    for (int panel = 0; panel < Tiles::panels; ++panel) {
      multiply_panels<PanelRows::depth>(
          out, block.shared + uint32_t(Tiles::end_key_gate + panel * panel_bytes), block.row,
          stage + (2 + panel) * panel_bytes, block.lane);
    }
    share.add(block.memory + (stage - block.shared) + 2 * panel_bytes);
    if (tile + 1 < tiles) {
      share.load(states + (tile + 1) * panel_columns, side.padded_dim);
    }
    if (block.is_last) {
      store_gradient(block, side, out, scratch, tile * panel_columns);
    } else {
      store_group_sums(group_sums, thread, out);
    }
  }
  float* state_sums = block.floats(Tiles::state_sums);
#pragma unroll
  for (int i = 0; i < StateShare<slots>::rows; ++i) {
    float sum = share.sums[i];
#pragma unroll
    for (int step = 1; step < row_pieces; step *= 2) {
      sum += __shfl_xor_sync(~0U, sum, step);
    }
    const int slot = share.first + i * StateShare<slots>::rows_at_once;
    if (share.piece == 0) {
      state_sums[slot] += __expf(block.gate.end(slot)) * sum;
    }
  }
}

// The gate's gradient from the block's sums: a thread has a slot and a segment of the tokens.
template <int slots>
__device__ void finish_gate(const WriteBlock<slots>& block, int group) {
  using Tiles = WriteTiles<slots>;
  const int slot = block.thread % slots;
  const int segment = block.thread / slots;
  const int first = segment * Tiles::segment_rows;
  const bool exists = slot < block.args.gates.slots;
  const float* gradients = block.floats(Tiles::slot_gradients);
  const float* terms_to_take = block.floats(Tiles::gate_terms);
  float* segment_sums = block.floats(Tiles::ring);
  const int rows = exists ? block.place.length - first : 0;  // of the segment, that exist
  float terms[Tiles::segment_rows] = {};
  float log_alpha[Tiles::segment_rows] = {};
  const float* products =
      block.args.products +
      ((block.chunk * block.args.query_heads + int64_t(block.head) * group) * chunk_rows + first) *
          slots +
      slot;
#pragma unroll 1
  for (int member = 0; member < group; ++member) {
#pragma unroll
    for (int i = 0; i < Tiles::segment_rows; ++i) {
      terms[i] += i < rows ? __ldg(products + i * slots) : 0.0F;
    }
    products += chunk_rows * slots;
  }
#pragma unroll
  for (int i = 0; i < Tiles::segment_rows; ++i) {
    log_alpha[i] = i < rows ? block.gate.log_alpha(first + i, slot) : 0.0F;
  }
  float sum = 0.0F;
#pragma unroll
  for (int i = 0; i < Tiles::segment_rows; ++i) {
    terms[i] -= terms_to_take[(first + i) * Tiles::gradient_stride + slot];
    sum += terms[i];
  }
  segment_sums[segment * slots + slot] = sum;
  __syncthreads();
  float running = block.floats(Tiles::state_sums)[slot];
#pragma unroll
  for (int i = 0; i < role_warps; ++i) {
    running += block.floats(Tiles::written_sums)[i * slots + slot];
  }
  for (int i = Tiles::segments - 1; i > segment; --i) {
    running += segment_sums[i * slots + slot];
  }
#pragma unroll
  for (int i = Tiles::segment_rows - 1; i >= 0; --i) {
    running += terms[i];
    if (i < rows) {
      store_gate_gradient(
          block.args, block.place.begin + first + i, block.head, slot,
          running - __expf(log_alpha[i]) * gradients[(first + i) * Tiles::gradient_stride + slot]);
    }
  }
}

template <int slots>
__global__ void __launch_bounds__(threads, WriteTiles<slots>::resident_blocks)
    write_kernel(const __grid_constant__ GsaWriteArgs args) {
  using Tiles = WriteTiles<slots>;
  extern __shared__ __align__(1024) unsigned char memory[];
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t chunk = static_cast<int>(blockIdx.x) / args.gates.heads;
  const int head = static_cast<int>(blockIdx.x) % args.gates.heads;
  const GsaChunk place = args.gates.chunks[chunk];
  const ChunkGate<slots> gate(args.gates, chunk, place, head);
  for (int i = thread; i < (Tiles::memory_bytes - Tiles::slot_gradients) / int(sizeof(float));
       i += threads) {
    reinterpret_cast<float*>(memory + Tiles::slot_gradients)[i] = 0.0F;
  }
  const bool any_steep = __syncthreads_or(thread < slots && gate.is_steep(thread)) != 0;
  const int role_warp = thread / warp_size % role_warps;
  WriteBlock<slots> block{args,      gate,
                          place,     chunk,
                          head,      any_steep,
                          memory,    shared_address(memory),
                          thread,    thread % warp_size,
                          role_warp, role_warp * strip_rows};
  const int group = args.query_heads / args.gates.heads;
  const int64_t group_base = (chunk * args.gates.heads + head) * chunk_rows *
                             (args.sides[0].padded_dim + args.sides[1].padded_dim);
  // Not unrolled: the code of one side fits the instruction cache, that of two does not.
#pragma unroll 1
  for (int i = 0; i < 2 * group; ++i) {
    const GsaWriteSide& side = args.sides[i % 2];
    block.query_head = head * group + i / 2;
    block.is_first = i < 2;
    block.is_last = i >= 2 * (group - 1);
    TileFetch<slots> fetch(block, side);
    fetch_start(block, side, fetch);
    if (thread < role_threads) {
      gather(block, side, fetch);
    } else {
      spread(block, side, fetch, group_base);
    }
    __syncthreads();
  }
  wait_copies<0>();
  finish_gate(block, group);
}

template <int slots>
void launch(cudaStream_t stream, const GsaSizes& sizes, const GsaWriteArgs& args) {
  const dim3 grid(static_cast<unsigned>(sizes.chunks * sizes.heads));
  launch_with_memory(write_kernel<slots>, grid, threads, WriteTiles<slots>::memory_bytes, stream,
                     args, "gsa write");
}

}  // namespace

void launch_gsa_write(cudaStream_t stream, const GsaSizes& sizes, const GsaWriteArgs& args) {
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
