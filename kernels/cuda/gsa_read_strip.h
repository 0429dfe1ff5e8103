// What a warp of gsa_read.cu does with its 16 tokens between the products: gate and softmax.
#pragma once

#include "kernels/cuda/gsa_kernels.h"
#include "kernels/cuda/wgmma.h"

namespace gsa::kernels::cuda::read_chunks {

inline constexpr int stages = 2;
inline constexpr int threads = chunk_rows / strip_rows * warp_size;

template <int slots>
struct ReadTiles {
  static constexpr int panels = slots / panel_columns;
  static constexpr int state_bytes = panels * panel_bytes;
  static constexpr int stage_bytes = 2 * panel_bytes + state_bytes;
  static constexpr int gate = 0;  // G; the warps' scratch for the output once G has been used
  static constexpr int ring = gate + panels * panel_bytes;
  static constexpr int key_products = ring + stages * stage_bytes;     // tril(Q K^T)
  static constexpr int second_gradients = key_products + panel_bytes;  // a panel of scale du e^b
  static constexpr int scratch = second_gradients + (panels - 1) * panel_bytes;
  static constexpr int scratch_bytes = panels * strip_bytes;  // a warp
  static constexpr int memory_bytes = scratch + threads / warp_size * scratch_bytes;
  static constexpr int tiles = panels * panel_tiles;  // accumulator tiles over the slots
  static_assert(threads / warp_size * strip_bytes <= ring);
  static constexpr int resident_blocks = panels == 1 ? 3 : 2;
};

template <int slots>
using SlotAccumulator = float[ReadTiles<slots>::tiles][4];
template <int slots>
using SlotOperand = StripOperand[ReadTiles<slots>::panels];

// A lane's share of what steep slots add to a strip, element by element of an accumulator. In local
// memory, filled by loops that are not unrolled: steep slots are rare, and the code around has no
// registers to spare (nor any to save around calls).
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
__device__ __forceinline__ void add_up_steep_scores(SteepShare<slots / 8>& share, SteepPlace place,
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

// Not inlined, where registers may be saved around a call.
template <int slots>
__device__ __noinline__ void fill_steep_scores(SteepShare<slots / 8>& share, SteepPlace place,
                                               ChunkGate<slots> gate, const unsigned char* a) {
  add_up_steep_scores<slots>(share, place, gate, a);
}

// The sum over the steep slots of r[t, m] s_j e^{b_t - b_j}, r in strips.
template <int slots>
__device__ __forceinline__ void add_up_steep_weights(SteepShare<panel_tiles>& share,
                                                     SteepPlace place, ChunkGate<slots> gate,
                                                     const unsigned char* r) {
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

template <int slots>
__device__ __noinline__ void fill_steep_weights(SteepShare<panel_tiles>& share, SteepPlace place,
                                                ChunkGate<slots> gate, const unsigned char* r) {
  add_up_steep_weights<slots>(share, place, gate, r);
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
  add_up_steep_scores<slots>(share, strip.steep_place(), strip.gate, strip.scratch);
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

// Stores a strip of [token, token].
template <int slots>
__device__ void store_weights(const ReadStrip<slots>& strip, const StripOperand& weights,
                              bfloat16* target) {
  store_strip(weights, strip.scratch, target + strip.base / slots * chunk_rows, chunk_rows,
              strip_rows, panel_columns, strip.lane);
}

// A row lies in the four lanes of a quad.
__device__ inline float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0U, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0U, x, 2));
}
__device__ inline float quad_sum(float x) {
  x += __shfl_xor_sync(~0U, x, 1);
  return x + __shfl_xor_sync(~0U, x, 2);
}

// Softmax over the slots that exist, in place; the padded ones become 0, and tokens past the end.
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
    const float total = quad_sum(sum);
    const float inverse = strip.token(2 * half) < strip.gate.length ? 1.0F / total : 0.0F;
#pragma unroll
    for (int tile = 0; tile < ReadTiles<slots>::tiles; ++tile) {
      u[tile][2 * half] *= inverse;
      u[tile][2 * half + 1] *= inverse;
    }
  }
}

}  // namespace gsa::kernels::cuda::read_chunks
