// Reading the slots by chunk: both passes of the forward form, and their mirror image backward.
//
//   acc = Y S_0^T + tril(Y X^T) G         Y: q (dO), X: k (v), S_0: states [slots, dim], G = s e^-b
//   forward:   u = scale e^b acc, p = softmax(u), r = p
//   backward:  dp = e^b acc,  du = p (dp - <p, dp>), r = scale du
//   out = (r e^b) S_0' + tril((r e^b) G^T) X'   X', S_0' of the other side: O, or dQ
//
// A block of four warps does one chunk and query head; a warp has 16 tokens and keeps everything
// between the tiles in registers: the accumulators of one product are the left operand of the next.
// Tiles of 64 dimensions of Y, X, S_0 (then X', S_0') come through shared memory, `stages` deep.
// Steep slots (GsaGates) have G = 0 and are added pair by pair, after the products.
//
// At B8 T2048 H4 K=V=512 M64: 1,024 blocks, 64 KB of shared memory, 3 blocks a multiprocessor;
// forward 385 MB read and written (0.12 ms at 3.3 TB/s), 17 GFLOP; backward 460 MB.
#include "kernels/cuda/gsa_kernels.h"

namespace gsa::kernels::cuda {
namespace {

constexpr int stages = 2;
constexpr int threads = chunk_rows / strip_rows * warp_size;

template <int slots>
struct ReadTiles {
  static constexpr int panels = slots / panel_columns;
  static constexpr int state_bytes = panels * panel_bytes;
  static constexpr int stage_bytes = 2 * panel_bytes + state_bytes;
  static constexpr int gate = 0;  // G
  static constexpr int ring = gate + panels * panel_bytes;
  static constexpr int scratch = ring + stages * stage_bytes;
  static constexpr int scratch_bytes = panels * strip_bytes;  // a warp
  static constexpr int memory_bytes = scratch + threads / warp_size * scratch_bytes;
  static constexpr int tiles = panels * panel_tiles;  // accumulator tiles over the slots
  static constexpr int resident_blocks = panels == 1 ? 3 : 2;
};

template <int slots>
using SlotAccumulator = float[ReadTiles<slots>::tiles][4];
template <int slots>
using SlotOperand = StripOperand[ReadTiles<slots>::panels];

// A lane's share of what steep slots add to a strip, element by element of an accumulator. In local
// memory, filled by functions that are not inlined: steep slots are rare, and the code around has
// no registers to spare.
template <int tiles>
struct SteepShare {
  float elements[tiles * 4];

  __device__ void add_to(float (*c)[4]) const {
#pragma unroll
    for (int tile = 0; tile < tiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        c[tile][i] += elements[tile * 4 + i];
      }
    }
  }
};

// Where the strip's row and a lane's elements are, for those functions.
struct SteepPlace {
  int first;  // token of the strip
  int length;
  int slots;  // that exist
  int lane;

  __device__ int row(int element) const { return lane / 4 + element % 4 / 2 * 8; }
  __device__ int column(int element) const { return element / 4 * 8 + lane % 4 * 2 + element % 2; }
};

// One warp's part of the work: which rows, and where its things are.
template <int slots>
struct ReadStrip {
  ChunkGate<slots> gate;
  const GsaReadArgs& args;
  int lane;
  int row;  // first of 16
  LanePlace place;
  bool any_steep;
  int64_t base;            // of [chunk, query head, row, 0] in arrays by slot
  unsigned char* scratch;  // ReadTiles::scratch_bytes

  __device__ int token(int element) const { return row + place.row + element / 2 * 8; }
  __device__ int slot(int tile, int element) const { return tile * 8 + place.column + element % 2; }
  __device__ SteepPlace steep_place() const { return {row, gate.length, args.gates.slots, lane}; }
  __device__ int64_t index(int tile, int half) const {
    return base + int64_t(place.row + half * 8) * slots + tile * 8 + place.column;
  }
  __device__ float2 decay(int tile, int half) const {
    return *reinterpret_cast<const float2*>(gate.decay + (row + place.row + half * 8) * slots +
                                            tile * 8 + place.column);
  }
};

// Zeros above the diagonal: column > token.
template <int slots>
__device__ void mask_later(const ReadStrip<slots>& strip, StripAccumulator& a) {
#pragma unroll
  for (int tile = 0; tile < panel_tiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      a[tile][i] = strip.slot(tile, i) <= strip.token(i) ? a[tile][i] : 0.0F;
    }
  }
}

// The sum over j <= t of a[t, j] s_j e^{b_t - b_j}, a strip of [token, token].
template <int slots>
__device__ __noinline__ void fill_steep_scores(SteepShare<slots / 8>& share, SteepPlace place,
                                               ChunkGate<slots> gate, const unsigned char* a) {
#pragma unroll 1
  for (int element = 0; element < slots / 2; ++element) {
    const int row = place.row(element);
    const int t = place.first + row;
    const int m = place.column(element);
    float sum = 0.0F;
    if (t < place.length && m < place.slots && gate.is_steep(m)) {
      for (int j = 0; j <= t; ++j) {
        sum += read_element(a, row, j) * gate.steep_factor(t, j, m);
      }
    }
    share.elements[element] = sum;
  }
}

// The sum over the steep slots of r[t, m] s_j e^{b_t - b_j}, r in strips.
template <int slots>
__device__ __noinline__ void fill_steep_weights(SteepShare<panel_tiles>& share, SteepPlace place,
                                                ChunkGate<slots> gate, const unsigned char* r) {
#pragma unroll 1
  for (int element = 0; element < panel_tiles * 4; ++element) {
    const int row = place.row(element);
    const int t = place.first + row;
    const int j = place.column(element);
    float sum = 0.0F;
    for (int m = 0; j <= t && t < place.length && m < place.slots; ++m) {
      if (gate.is_steep(m)) {
        sum += read_element(r + m / panel_columns * strip_bytes, row, m % panel_columns) *
               gate.steep_factor(t, j, m);
      }
    }
    share.elements[element] = sum;
  }
}

// acc = e^b acc, and in steep slots + sum over j <= t of a[t, j] s_j e^{b_t - b_j}.
template <int slots>
__device__ void apply_gate(const ReadStrip<slots>& strip, const StripOperand& a,
                           SlotAccumulator<slots>& acc) {
#pragma unroll
  for (int tile = 0; tile < ReadTiles<slots>::tiles; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float2 b = strip.decay(tile, half);
      acc[tile][2 * half] *= __expf(b.x);
      acc[tile][2 * half + 1] *= __expf(b.y);
    }
  }
  if (!strip.any_steep) {
    return;
  }
  write_strip(strip.scratch, a, strip.lane);
  __syncwarp();
  SteepShare<ReadTiles<slots>::tiles> share;
  fill_steep_scores<slots>(share, strip.steep_place(), strip.gate, strip.scratch);
  share.add_to(acc);
  __syncwarp();
}

// Leaves r in the strip's scratch, for the steep slots' pairs.
template <int slots>
__device__ void write_plain(const ReadStrip<slots>& strip, const SlotAccumulator<slots>& r) {
#pragma unroll
  for (int panel = 0; panel < ReadTiles<slots>::panels; ++panel) {
    StripOperand plain;
    to_operand(plain, r + panel * panel_tiles);
    write_strip(strip.scratch + panel * strip_bytes, plain, strip.lane);
  }
  __syncwarp();
}

// a = tril(gated G^T), and of steep slots + r[t, m] s_j e^{b_t - b_j}.
template <int slots>
__device__ void read_weights(const ReadStrip<slots>& strip, uint32_t gate_panels,
                             const SlotOperand<slots>& gated, const SlotAccumulator<slots>& r,
                             StripAccumulator& a) {
  clear(a, panel_tiles);
#pragma unroll
  for (int panel = 0; panel < ReadTiles<slots>::panels; ++panel) {
    multiply_panel<PanelRows::columns>(a, gated[panel], gate_panels + panel * panel_bytes,
                                       strip.lane);
  }
  mask_later(strip, a);
  if (!strip.any_steep) {
    return;
  }
  write_plain(strip, r);
  SteepShare<panel_tiles> share;
  fill_steep_weights<slots>(share, strip.steep_place(), strip.gate, strip.scratch);
  share.add_to(a);
  __syncwarp();
}

// A row lies in the four lanes of a quad.
__device__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0U, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0U, x, 2));
}
__device__ float quad_sum(float x) {
  x += __shfl_xor_sync(~0U, x, 1);
  return x + __shfl_xor_sync(~0U, x, 2);
}

// Softmax over the slots that exist, in place; the padded ones become 0.
template <int slots>
__device__ void softmax(const ReadStrip<slots>& strip, SlotAccumulator<slots>& u) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float largest = -INFINITY;
#pragma unroll
    for (int tile = 0; tile < ReadTiles<slots>::tiles; ++tile) {
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        u[tile][i] = strip.slot(tile, i) < strip.args.gates.slots ? u[tile][i] : -INFINITY;
        largest = fmaxf(largest, u[tile][i]);
      }
    }
    largest = quad_max(largest);
    float sum = 0.0F;
#pragma unroll
    for (int tile = 0; tile < ReadTiles<slots>::tiles; ++tile) {
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        u[tile][i] = __expf(u[tile][i] - largest);
        sum += u[tile][i];
      }
    }
    const float inverse = 1.0F / quad_sum(sum);
#pragma unroll
    for (int tile = 0; tile < ReadTiles<slots>::tiles; ++tile) {
      u[tile][2 * half] *= inverse;
      u[tile][2 * half + 1] *= inverse;
    }
  }
}

// r e^b as an operand.
template <int slots>
__device__ void gate_operand(const ReadStrip<slots>& strip, const SlotAccumulator<slots>& r,
                             SlotOperand<slots>& gated) {
#pragma unroll
  for (int tile = 0; tile < ReadTiles<slots>::tiles; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float2 b = strip.decay(tile, half);
      gated[tile / panel_tiles][tile % panel_tiles / 2][tile % 2 * 2 + half] =
          pack_pair(r[tile][2 * half] * __expf(b.x), r[tile][2 * half + 1] * __expf(b.y));
    }
  }
}

template <int slots>
__device__ void store_operand(const ReadStrip<slots>& strip, const SlotOperand<slots>& operand,
                              bfloat16* target) {
#pragma unroll
  for (int panel = 0; panel < ReadTiles<slots>::panels; ++panel) {
    store_strip(operand[panel], strip.scratch, target + strip.base + panel * panel_columns, slots,
                strip_rows, panel_columns, strip.lane);
  }
}

// Stores r as it is: what write.cu needs of steep slots.
template <int slots>
__device__ void store_plain(const ReadStrip<slots>& strip, const SlotAccumulator<slots>& r,
                            bfloat16* target) {
#pragma unroll
  for (int panel = 0; panel < ReadTiles<slots>::panels; ++panel) {
    store_strip(r + panel * panel_tiles, strip.scratch, target + strip.base + panel * panel_columns,
                slots, strip_rows, panel_columns, strip.lane);
  }
}

// Forward: from e^b acc to u (kept) and the operand of p.
template <int slots>
__device__ void turn_forward(const ReadStrip<slots>& strip, SlotAccumulator<slots>& acc,
                             SlotOperand<slots>& gated) {
#pragma unroll
  for (int tile = 0; tile < ReadTiles<slots>::tiles; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      acc[tile][2 * half] *= strip.args.scale;
      acc[tile][2 * half + 1] *= strip.args.scale;
      if (strip.args.scores != nullptr) {
        *reinterpret_cast<float2*>(strip.args.scores + strip.index(tile, half)) =
            make_float2(acc[tile][2 * half], acc[tile][2 * half + 1]);
      }
    }
  }
  softmax(strip, acc);
  gate_operand(strip, acc, gated);
}

// p dp + u du of one element, from the operands as the products see them, rounded: what is written
// and what is read of a slot then cancels in the gate's gradient but for float32's rounding.
__device__ float gate_product(float p, float dp, float u_over_scale, float gradient, float b,
                              bool is_steep) {
  const auto seen = [&](float x) {
    return is_steep ? to_float(from_float<bfloat16>(x))
                    : to_float(from_float<bfloat16>(x * __expf(b))) * __expf(-b);
  };
  return dp * seen(p) + u_over_scale * seen(gradient);
}

// Backward: from dp and the kept u to p dp + u du, the operands of p and scale du.
template <int slots>
__device__ void turn_backward(const ReadStrip<slots>& strip, SlotAccumulator<slots>& acc,
                              SlotOperand<slots>& gated) {
  const float scale = strip.args.scale;
  const float inverse_scale = scale == 0.0F ? 0.0F : 1.0F / scale;
  SlotAccumulator<slots> p;
  const auto scores = [&](int tile, int half) {
    return *reinterpret_cast<const float2*>(strip.args.scores + strip.index(tile, half));
  };
#pragma unroll
  for (int tile = 0; tile < ReadTiles<slots>::tiles; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float2 u = scores(tile, half);
      p[tile][2 * half] = u.x;
      p[tile][2 * half + 1] = u.y;
    }
  }
  softmax(strip, p);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float mean = 0.0F;
#pragma unroll
    for (int tile = 0; tile < ReadTiles<slots>::tiles; ++tile) {
      mean +=
          p[tile][2 * half] * acc[tile][2 * half] + p[tile][2 * half + 1] * acc[tile][2 * half + 1];
    }
    mean = quad_sum(mean);
#pragma unroll
    for (int tile = 0; tile < ReadTiles<slots>::tiles; ++tile) {
      const float2 u = scores(tile, half);
      const float2 b = strip.decay(tile, half);
      float product[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int element = 2 * half + i;
        const float dp = acc[tile][element];
        acc[tile][element] = scale * p[tile][element] * (dp - mean);
        product[i] = gate_product(
            p[tile][element], dp, inverse_scale * (i == 0 ? u.x : u.y), acc[tile][element],
            i == 0 ? b.x : b.y, strip.any_steep && strip.gate.is_steep(strip.slot(tile, element)));
      }
      *reinterpret_cast<float2*>(strip.args.products + strip.index(tile, half)) =
          make_float2(product[0], product[1]);
    }
  }
  if (strip.any_steep) {
    store_plain(strip, p, strip.args.probabilities);
    store_plain(strip, acc, strip.args.score_gradients);
  }
  gate_operand(strip, p, gated);
  store_operand(strip, gated, strip.args.gated_probabilities);
  gate_operand(strip, acc, gated);
  store_operand(strip, gated, strip.args.gated_gradients);
}

template <int slots, bool backward>
__global__ void __launch_bounds__(threads, ReadTiles<slots>::resident_blocks)
    read_kernel(const __grid_constant__ GsaReadArgs args) {
  using Tiles = ReadTiles<slots>;
  extern __shared__ __align__(1024) unsigned char memory[];
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % warp_size;
  const int warp = thread / warp_size;
  const int query_head = static_cast<int>(blockIdx.x) % args.query_heads;
  const int64_t chunk = static_cast<int>(blockIdx.x) / args.query_heads;
  const int head = query_head / (args.query_heads / args.gates.heads);
  const int state_head = query_head / (args.query_heads / args.state_heads);
  const GsaChunk chunk_place = args.gates.chunks[chunk];
  const uint32_t shared = shared_address(memory);
  const int first_tiles = args.first.padded_dim / panel_columns;
  const int second_tiles = args.output.data == nullptr ? 0 : args.second.padded_dim / panel_columns;

  const auto fetch_state = [&](const GsaReadSide& side, int column, uint32_t target) {
    const bfloat16* states =
        side.states + (chunk * args.state_heads + state_head) * slots * side.padded_dim + column;
    copy_panel<slots, threads>(target, states, side.padded_dim, slots, panel_columns, thread);
  };
  const auto fetch_rows = [&](const HeadRows<const bfloat16>& rows, int of_head, int column,
                              uint32_t target) {
    copy_panel<chunk_rows, threads>(target, rows.at(chunk_place.begin, of_head) + column,
                                    rows.stride, chunk_place.length, rows.dim - column, thread);
  };
  const auto fetch = [&](int tile) {
    const uint32_t stage = shared + uint32_t(Tiles::ring + tile % stages * Tiles::stage_bytes);
    if (tile < first_tiles) {
      const int column = tile * panel_columns;
      fetch_rows(args.queries, query_head, column, stage);
      fetch_rows(args.first.rows, head, column, stage + panel_bytes);
      fetch_state(args.first, column, stage + 2 * panel_bytes);
    } else if (tile < first_tiles + second_tiles) {
      const int column = (tile - first_tiles) * panel_columns;
      fetch_rows(args.second.rows, head, column, stage + panel_bytes);
      fetch_state(args.second, column, stage + 2 * panel_bytes);
    }
    commit_copies();
  };

  const bfloat16* key_gate =
      args.gates.key_gate + (chunk * args.gates.heads + head) * chunk_rows * slots;
#pragma unroll
  for (int panel = 0; panel < Tiles::panels; ++panel) {
    copy_panel<chunk_rows, threads>(shared + Tiles::gate + panel * panel_bytes,
                                    key_gate + panel * panel_columns, slots, chunk_rows,
                                    panel_columns, thread);
  }
#pragma unroll
  for (int tile = 0; tile < stages - 1; ++tile) {
    fetch(tile);
  }

  const ChunkGate<slots> gate(args.gates, chunk, chunk_place, head);
  const int64_t base =
      ((chunk * args.query_heads + query_head) * chunk_rows + warp * strip_rows) * slots;
  const bool any_steep = __syncthreads_or(thread < slots && gate.is_steep(thread)) != 0;
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
    clear(a, panel_tiles);
    clear(acc, Tiles::tiles);
#pragma unroll 1
    for (int tile = 0; tile < first_tiles; ++tile) {
      wait_copies<stages - 2>();
      __syncthreads();
      fetch(tile + stages - 1);
      const uint32_t stage = shared + uint32_t(Tiles::ring + tile % stages * Tiles::stage_bytes);
#pragma unroll
      for (int step = 0; step < panel_steps; ++step) {
        uint32_t y[4];
        load_step(y, stage, strip.row, step, lane);
        multiply_step<PanelRows::columns>(a, y, stage + panel_bytes, step, lane);
#pragma unroll
        for (int panel = 0; panel < Tiles::panels; ++panel) {
          multiply_step<PanelRows::columns>(acc + panel * panel_tiles, y,
                                            stage + (2 + panel) * panel_bytes, step, lane);
        }
      }
    }
    mask_later(strip, a);
    to_operand(weights, a);
#pragma unroll
    for (int panel = 0; panel < Tiles::panels; ++panel) {
      multiply_panel<PanelRows::depth>(acc + panel * panel_tiles, weights,
                                       shared + Tiles::gate + panel * panel_bytes, lane);
    }
    apply_gate(strip, weights, acc);
    if constexpr (backward) {
      turn_backward(strip, acc, gated);
    } else {
      turn_forward(strip, acc, gated);
    }
    read_weights<slots>(strip, shared + Tiles::gate, gated, acc, a);
    to_operand(weights, a);
  }

#pragma unroll 1
  for (int tile = first_tiles; tile < first_tiles + second_tiles; ++tile) {
    wait_copies<stages - 2>();
    __syncthreads();
    fetch(tile + stages - 1);
    const uint32_t stage = shared + uint32_t(Tiles::ring + tile % stages * Tiles::stage_bytes);
    StripAccumulator out;
    clear(out, panel_tiles);
#pragma unroll
    for (int panel = 0; panel < Tiles::panels; ++panel) {
      multiply_panel<PanelRows::depth>(out, gated[panel], stage + (2 + panel) * panel_bytes, lane);
    }
    multiply_panel<PanelRows::depth>(out, weights, stage + panel_bytes, lane);
    const int column = (tile - first_tiles) * panel_columns;
    store_strip(out, strip.scratch,
                args.output.at(chunk_place.begin + strip.row, query_head) + column,
                args.output.stride, chunk_place.length - strip.row, args.output.dim - column, lane);
  }
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
