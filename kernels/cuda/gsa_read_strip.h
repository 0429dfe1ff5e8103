// What a warp of gsa_read.cu does with its 16 tokens between the products: gate and softmax.
#pragma once

#include <cuda_fp16.h>

#include "kernels/cuda/async_copy.h"
#include "kernels/cuda/gsa_kernels.h"
#include "kernels/cuda/wgmma.h"

namespace gsa::kernels::cuda::read_chunks {

// How many tiles of accumulators and panels the slots are.
template <int slots>
struct SlotTiles {
  static constexpr int panels = slots / panel_columns;
  static constexpr int tiles = panels * panel_tiles;
};

// 1 / x where it does not leave the range of normal numbers: one instruction.
__device__ inline float fast_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

// Two numbers as float16, those beyond its range as the largest.
__device__ inline uint32_t pack_half_pair(float low, float high) {
  constexpr uint32_t most = 0x7bff7bff;
  constexpr uint32_t least = 0xfbfffbff;
  const __half2 pair = __floats2half2_rn(low, high);
  const __half2 limited = __hmax2_nan(__hmin2_nan(pair, reinterpret_cast<const __half2&>(most)),
                                      reinterpret_cast<const __half2&>(least));
  return reinterpret_cast<const uint32_t&>(limited);
}
__device__ inline float2 unpack_half_pair(uint32_t pair) {
  return __half22float2(reinterpret_cast<const __half2&>(pair));
}

// What one pass keeps of a strip for another lies as the warp has it in its registers: 16 bytes of
// each lane after the other, then the next 16.
inline constexpr int lane_words = piece_bytes / int(sizeof(uint32_t));
__device__ inline void store_lanes(uint32_t* strip, int index, const uint32_t (&words)[lane_words],
                                   int lane) {
  uint32_t* target = strip + (index * warp_size + lane) * lane_words;
  asm volatile("st.global.v4.u32 [%0], {%1,%2,%3,%4};\n" ::"l"(target), "r"(words[0]),
               "r"(words[1]), "r"(words[2]), "r"(words[3])
               : "memory");
}
__device__ inline void load_lanes(const uint32_t* strip, int index, uint32_t (&words)[lane_words],
                                  int lane) {
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "l"(strip + (index * warp_size + lane) * lane_words));
}
// Brings `count` bytes of it into the L2 cache, at most a line a lane.
template <int count>
__device__ inline void prefetch_lanes(const uint32_t* strip, int lane) {
  constexpr int line_words = 32;
  constexpr int lines = count / (line_words * int(sizeof(uint32_t)));
  static_assert(lines <= warp_size);
  if (lane < lines) {
    asm volatile("prefetch.global.L2 [%0];\n" ::"l"(strip + lane * line_words));
  }
}

// An address in shared memory with some bits turned over, computed where it is used: kept for a
// later use, these addresses would take the registers that the accumulators need.
__device__ inline uint32_t turn_bits(uint32_t address, uint32_t bits) {
  uint32_t turned;
  asm volatile("xor.b32 %0, %1, %2;\n" : "=r"(turned) : "r"(address), "r"(bits));
  return turned;
}
__device__ inline float2 load_pair(uint32_t address) {
  float2 pair;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];\n"
               : "=f"(pair.x), "=f"(pair.y)
               : "r"(address)
               : "memory");
  return pair;
}
__device__ inline void store_pair(uint32_t address, float2 pair) {
  asm volatile("st.shared.v2.f32 [%0], {%1, %2};\n" ::"r"(address), "f"(pair.x), "f"(pair.y)
               : "memory");
}

// e^b of a chunk in shared memory, as all warps of a block read it between the products. The pieces
// of 8 slots of a row are permuted by the row's number modulo 8: the pairs that a warp's lanes have
// of an accumulator tile lie in different banks. With 128 slots there is no room for it.
template <int slots>
struct ChunkFade {
  static constexpr bool is_kept = slots == panel_columns;
  static constexpr int row_bytes = slots * int(sizeof(float));
  static constexpr int bytes = is_kept ? chunk_rows * row_bytes : 0;
  static constexpr int pieces = row_bytes / piece_bytes;  // of 16 bytes, a row

  __device__ static uint32_t offset(int row, int tile) {
    return uint32_t(row * row_bytes + (tile ^ (row & 7)) * 2 * piece_bytes);
  }
  __device__ static uint32_t piece_offset(int index) {
    return offset(index / pieces, index % pieces / 2) + uint32_t(index % 2 * piece_bytes);
  }
  // Begins copying b.
  template <int threads>
  __device__ static void fetch(uint32_t target, const float* decay, int thread) {
#pragma unroll
    for (int i = 0; i < chunk_rows * pieces / threads; ++i) {
      const int index = i * threads + thread;
      copy_piece(target + piece_offset(index), decay + index * (piece_bytes / 4), true);
    }
  }
  // Where a steep slot's e^b would vanish it stays a number that has a reciprocal: its products are
  // zero to float32 either way.
  __device__ static float of(float b) {
    constexpr float least = -80.0F;
    return __expf(fmaxf(b, least));
  }
  // Once it has landed: e^b in the place of what this thread copied. Whether a slot there is steep.
  template <int threads>
  __device__ static bool raise(unsigned char* target, int thread) {
    bool steep = false;
    constexpr int thread_pieces = chunk_rows * pieces / threads;
    float4 b[thread_pieces];
#pragma unroll
    for (int i = 0; i < thread_pieces; ++i) {
      b[i] = *reinterpret_cast<const float4*>(target + piece_offset(i * threads + thread));
    }
#pragma unroll
    for (int i = 0; i < thread_pieces; ++i) {
      const int index = i * threads + thread;
      steep =
          steep || (index / pieces == chunk_rows - 1 &&
                    fminf(fminf(b[i].x, b[i].y), fminf(b[i].z, b[i].w)) < -GsaGates::factor_limit);
      *reinterpret_cast<float4*>(target + piece_offset(index)) =
          make_float4(of(b[i].x), of(b[i].y), of(b[i].z), of(b[i].w));
    }
    return steep;
  }
};

// The chunk's e^b for a whole block, once what this thread has copied of b has landed; with a
// barrier. Whether any slot is steep.
template <int threads, int slots>
__device__ bool receive_fade(const ChunkGate<slots>& gate, unsigned char* fades, int thread) {
  bool steep = false;
  if constexpr (ChunkFade<slots>::is_kept) {
    steep = ChunkFade<slots>::template raise<threads>(fades, thread);
  } else {
    steep = thread < slots && gate.is_steep(thread);
  }
  return __syncthreads_or(int(steep)) != 0;
}

template <int slots>
using SlotAccumulator = float[SlotTiles<slots>::tiles][4];
template <int slots>
using SlotOperand = StripOperand[SlotTiles<slots>::panels];
// scale e^b (Q K_0) of a strip, as float16: the lane's two rows of two tiles in one piece.
template <int slots>
using StateScores = uint32_t[SlotTiles<slots>::tiles / 2][lane_words];

// A lane's share of what steep slots add to a strip, element by element of an accumulator. In local
// memory, filled by loops that are not unrolled: steep slots are rare, and the code around has no
// registers to spare (nor any to save around calls).
template <int tiles>
struct SteepShare {
  float elements[tiles * 4];

  // The elements, for loops that are unrolled: in memory all the same.
  __device__ float* kept() {
    float* memory = elements;
    asm volatile("" : "+l"(memory)::"memory");
    return memory;
  }
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
  bool any_steep;          // in the chunk
  uint32_t steep_slots;    // of the lane's: bit 2 tile + element % 2
  int64_t base;            // of [chunk, query head, row, 0] in arrays by slot
  unsigned char* scratch;  // a strip for each panel of slots
  uint32_t fades;          // ChunkFade
  int member;              // the warpgroup's number

  __device__ int token(int element) const { return row + place.row + element / 2 * 8; }
  __device__ int slot(int tile, int element) const { return tile * 8 + place.column + element % 2; }
  __device__ bool is_steep(int tile, int element) const {
    return (steep_slots >> (2 * tile + element % 2) & 1U) != 0;
  }
  // Which of the lane's slots are steep, once it is known whether any is.
  __device__ void find_steep(bool any) {
    any_steep = any;
    steep_slots = 0;
    if (any) {
#pragma unroll 1
      for (int i = 0; i < 2 * SlotTiles<slots>::tiles; ++i) {
        const int m = slot(i / 2, i % 2);
        steep_slots |= uint32_t(m < args.gates.slots && gate.is_steep(m)) << i;
      }
    }
  }
  __device__ SteepPlace steep_place() const {
    return {row, gate.length, args.gates.slots, lane};
  }
  __device__ int64_t index(int tile, int half) const {
    return base + int64_t(place.row + half * 8) * slots + tile * 8 + place.column;
  }
  // e^b.
  __device__ float2 fade(int tile, int half) const {
    return fade_at(token(2 * half), tile);
  }
  __device__ float2 fade_at(int of_row, int tile) const {
    if constexpr (ChunkFade<slots>::is_kept) {
      return load_pair(fade_address(of_row, tile));
    } else {
      const float2 b =
          *reinterpret_cast<const float2*>(gate.decay + of_row * slots + tile * 8 + place.column);
      return make_float2(ChunkFade<slots>::of(b.x), ChunkFade<slots>::of(b.y));
    }
  }
  __device__ uint32_t fade_address(int of_row, int tile) const {
    return turn_bits(fades + ChunkFade<slots>::offset(of_row, 0) + place.column * sizeof(float),
                     tile * 2 * piece_bytes);
  }
  // Where what is kept of the strip lies: a number of 2 bytes for each element.
  __device__ uint32_t* kept_scores() const {
    return args.state_scores + base / 2;
  }
  __device__ uint32_t* kept_products() const {
    return args.key_products + base / slots * (chunk_rows / 2);
  }
  // Keeps tril(Q K^T), and of Q K_0 (`acc`) what it becomes in u.
  __device__ void keep(const StripOperand& products, const SlotAccumulator<slots>& acc) const {
#pragma unroll
    for (int step = 0; step < panel_steps; ++step) {
      store_lanes(kept_products(), step, products[step], lane);
    }
#pragma unroll
    for (int pair = 0; pair < SlotTiles<slots>::tiles / 2; ++pair) {
      uint32_t words[lane_words];
#pragma unroll
      for (int i = 0; i < lane_words; ++i) {
        const int tile = 2 * pair + i / 2;
        const int half = i % 2;
        const float2 of = fade(tile, half);
        words[i] = pack_half_pair(args.scale * of.x * acc[tile][2 * half],
                                  args.scale * of.y * acc[tile][2 * half + 1]);
      }
      store_lanes(kept_scores(), pair, words, lane);
    }
  }
  // A barrier of the warps that work on one of the block's query heads.
  template <int members>
  __device__ void sync_member() const {
    if constexpr (members == 1) {
      __syncthreads();
    } else if (member == 0) {
      sync_threads<1>(warpgroup_threads);
    } else {
      sync_threads<2>(warpgroup_threads);
    }
  }
};

// Zeros above the diagonal: column > token.
template <int slots>
__device__ void mask_later(const ReadStrip<slots>& strip, StripAccumulator& a) {
#pragma unroll
  for (int tile = 0; tile < panel_tiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      a[tile][i] = tile * 8 + i % 2 <= strip.token(i) - strip.place.column ? a[tile][i] : 0.0F;
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

// acc = e^b acc, and in steep slots + sum over j <= t of a[t, j] s_j e^{b_t - b_j}. This warp has
// written `a`, a strip.
template <int slots>
__device__ void apply_gate(const ReadStrip<slots>& strip, const unsigned char* a,
                           SlotAccumulator<slots>& acc) {
#pragma unroll
  for (int tile = 0; tile < SlotTiles<slots>::tiles; ++tile) {
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
  __syncwarp();
  SteepShare<SlotTiles<slots>::tiles> share;
  add_up_steep_scores<slots>(share, strip.steep_place(), strip.gate, a);
  share.add_to(acc);
}

// Leaves r in the strip's scratch, for the steep slots' pairs.
template <int slots>
__device__ void write_plain(const ReadStrip<slots>& strip, const SlotAccumulator<slots>& r) {
#pragma unroll
  for (int panel = 0; panel < SlotTiles<slots>::panels; ++panel) {
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

// Softmax over the slots that exist, of the half of a lane's rows and in place; the padded ones
// become 0, and tokens past the end.
template <int slots>
__device__ void softmax(const ReadStrip<slots>& strip, SlotAccumulator<slots>& u, int half) {
  const int slots_left = strip.args.gates.slots - strip.place.column;
  float largest = -INFINITY;
#pragma unroll
  for (int tile = 0; tile < SlotTiles<slots>::tiles; ++tile) {
#pragma unroll
    for (int i = 2 * half; i < 2 * half + 2; ++i) {
      u[tile][i] = tile * 8 + i % 2 < slots_left ? u[tile][i] : -INFINITY;
      largest = fmaxf(largest, u[tile][i]);
    }
  }
  largest = quad_max(largest);
  float sum = 0.0F;
#pragma unroll
  for (int tile = 0; tile < SlotTiles<slots>::tiles; ++tile) {
#pragma unroll
    for (int i = 2 * half; i < 2 * half + 2; ++i) {
      u[tile][i] = __expf(u[tile][i] - largest);
      sum += u[tile][i];
    }
  }
  const float total = quad_sum(sum);
  const float inverse = strip.token(2 * half) < strip.gate.length ? fast_reciprocal(total) : 0.0F;
#pragma unroll
  for (int tile = 0; tile < SlotTiles<slots>::tiles; ++tile) {
    u[tile][2 * half] *= inverse;
    u[tile][2 * half + 1] *= inverse;
  }
}

}  // namespace gsa::kernels::cuda::read_chunks
