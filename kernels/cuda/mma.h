// Tiles of bfloat16 in shared memory and products of them on the tensor cores, a warp at a time.
//
// A *panel* is rows of 64 bfloat16 (128 bytes). The 16-byte pieces of a row are permuted by the
// row's number modulo 8, so that eight rows of one column of pieces lie in different banks: loads
// by ldmatrix, stores of accumulators and copies of whole rows are all free of conflicts. A *strip*
// is 16 rows by 64 columns, in the registers of one warp.
//
// Products are mma.sync m16n8k16, bf16 operands, float32 accumulators. In an accumulator tile
// (16 x 8) lane l holds row l/4, columns 2 (l%4) and one more in elements 0 and 1, and the same
// columns of row l/4 + 8 in elements 2 and 3.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/cuda/reduce.h"
#include "kernels/cuda/vector.h"

namespace gsa::kernels::cuda {

inline constexpr int panel_columns = 64;
inline constexpr int panel_row_bytes = panel_columns * int(sizeof(bfloat16));
inline constexpr int piece_bytes = 16;
inline constexpr int piece_columns = piece_bytes / int(sizeof(bfloat16));
inline constexpr int row_pieces = panel_row_bytes / piece_bytes;
inline constexpr int strip_rows = 16;
inline constexpr int strip_bytes = strip_rows * panel_row_bytes;
inline constexpr int panel_bytes = 64 * panel_row_bytes;  // of 64 rows
inline constexpr int panel_tiles = panel_columns / 8;     // accumulator tiles of a strip
inline constexpr int panel_steps = panel_columns / 16;    // products of depth 16 over a panel

using StripOperand = uint32_t[panel_steps][4];
using StripAccumulator = float[panel_tiles][4];

// Where a lane's elements lie in an accumulator tile.
struct LanePlace {
  int row;     // and row + 8
  int column;  // and column + 1, in each tile of 8
  __device__ explicit LanePlace(int lane) : row(lane / 4), column(lane % 4 * 2) {}
};

__device__ inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Byte offset of a 16-byte piece in a panel.
__device__ inline uint32_t panel_offset(int row, int piece) {
  return static_cast<uint32_t>(row * panel_row_bytes + ((piece ^ (row & 7)) * piece_bytes));
}

// A piece to memory, which compilers may otherwise take apart.
__device__ inline void store_piece(bfloat16* target, const uint4& piece) {
  asm volatile("st.global.v4.u32 [%0], {%1,%2,%3,%4};\n" ::"l"(target), "r"(piece.x), "r"(piece.y),
               "r"(piece.z), "r"(piece.w)
               : "memory");
}

// Where a lane's row address for ldmatrix lies in a panel, for the first step: lanes 0 to 15 hold
// rows, the upper half of the warp the next piece. A later piece is an exclusive or away, a later
// row an addition: panels begin at multiples of 1024 bytes.
__device__ inline uint32_t lane_rows(int lane) {
  return panel_offset(lane % 16, lane / 16);
}
// Two pieces are a step of depth 16.
inline constexpr uint32_t two_pieces = 2 * piece_bytes;

__device__ inline uint32_t pack_pair(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const uint32_t&>(pair);
}
// The products of two pairs, each rounded once.
__device__ inline uint32_t multiply_pairs(uint32_t a, uint32_t b) {
  const __nv_bfloat162 pair = __hmul2(reinterpret_cast<const __nv_bfloat162&>(a),
                                      reinterpret_cast<const __nv_bfloat162&>(b));
  return reinterpret_cast<const uint32_t&>(pair);
}

// Copies 16 bytes to shared memory in the background; zeros if not `valid`.
__device__ inline void copy_piece(uint32_t target, const void* source, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(target), "l"(source),
               "r"(valid ? piece_bytes : 0)
               : "memory");
}
__device__ inline void commit_copies() {
  asm volatile("cp.async.commit_group;\n" ::: "memory");
}
// Waits until no more than `pending` of this thread's last groups of copies are under way.
template <int pending>
__device__ inline void wait_copies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(pending) : "memory");
}

// Begins copying `rows` rows of 64 columns into a panel, by `threads` threads; zeros past
// `valid_rows` and `valid_columns` (a multiple of 8). Nothing is read where zeros are written.
template <int rows, int threads>
__device__ inline void copy_panel(uint32_t panel, const bfloat16* source, int64_t stride,
                                  int valid_rows, int valid_columns, int thread) {
  constexpr int rows_at_once = threads / row_pieces;
  static_assert(rows % rows_at_once == 0 && rows_at_once % 8 == 0);
  const int first_row = thread / row_pieces;
  const int piece = thread % row_pieces;
  const int rows_left = piece * piece_columns < valid_columns ? valid_rows - first_row : 0;
  const uint32_t target = panel + panel_offset(first_row, piece);
  const bfloat16* from = source + first_row * stride + piece * piece_columns;
  const int64_t step = rows_at_once * stride;
#pragma unroll
  for (int i = 0; i < rows / rows_at_once; ++i) {
    const int row = i * rows_at_once;
    copy_piece(target + uint32_t(row * panel_row_bytes), from, row < rows_left);
    from += step;
  }
}

__device__ inline void load_matrices(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

__device__ inline void store_matrices(uint32_t address, uint32_t r0, uint32_t r1, uint32_t r2,
                                      uint32_t r3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};\n" ::"r"(address),
               "r"(r0), "r"(r1), "r"(r2), "r"(r3)
               : "memory");
}

__device__ inline void multiply_tile(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                     uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
      "{%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// One step of depth 16 of rows [row, row + 16) of a panel as the left operand.
__device__ inline void load_step(uint32_t (&a)[4], uint32_t panel, int row, int step, int lane) {
  load_matrices(a, (panel + uint32_t(row * panel_row_bytes) + lane_rows(lane)) ^
                       (uint32_t(step) * two_pieces));
}

// How the right operand [64 deep, 64 columns] lies in a panel.
enum class PanelRows { depth, columns };

__device__ inline void clear(float (*c)[4], int tiles) {
#pragma unroll
  for (int tile = 0; tile < tiles; ++tile) {
    c[tile][0] = c[tile][1] = c[tile][2] = c[tile][3] = 0.0F;
  }
}

// Accumulators rounded to bfloat16 as a left operand: the layouts agree lane by lane.
__device__ inline void to_operand(StripOperand& a, const float (*c)[4]) {
#pragma unroll
  for (int step = 0; step < panel_steps; ++step) {
    a[step][0] = pack_pair(c[2 * step][0], c[2 * step][1]);
    a[step][1] = pack_pair(c[2 * step][2], c[2 * step][3]);
    a[step][2] = pack_pair(c[2 * step + 1][0], c[2 * step + 1][1]);
    a[step][3] = pack_pair(c[2 * step + 1][2], c[2 * step + 1][3]);
  }
}

// The same with rows l/4 and l/4 + 8 multiplied by a factor each.
__device__ inline void to_scaled_operand(StripOperand& a, const float (*c)[4], float low,
                                         float high) {
#pragma unroll
  for (int tile = 0; tile < panel_tiles; ++tile) {
    a[tile / 2][tile % 2 * 2] = pack_pair(c[tile][0] * low, c[tile][1] * low);
    a[tile / 2][tile % 2 * 2 + 1] = pack_pair(c[tile][2] * high, c[tile][3] * high);
  }
}

__device__ inline void scale_rows(StripAccumulator& c, float low, float high) {
#pragma unroll
  for (int tile = 0; tile < panel_tiles; ++tile) {
    c[tile][0] *= low;
    c[tile][1] *= low;
    c[tile][2] *= high;
    c[tile][3] *= high;
  }
}

// Writes a strip into 16 rows of a panel (`panel` is the address of the first, a multiple of 8).
__device__ inline void write_strip(unsigned char* panel, const StripOperand& a, int lane) {
  const uint32_t rows = shared_address(panel) + lane_rows(lane);
#pragma unroll
  for (int step = 0; step < panel_steps; ++step) {
    store_matrices(rows ^ (uint32_t(step) * two_pieces), a[step][0], a[step][1], a[step][2],
                   a[step][3]);
  }
}

// One element of a strip in shared memory.
__device__ inline float read_element(const unsigned char* panel, int row, int column) {
  const unsigned char* piece = panel + panel_offset(row, column / piece_columns);
  return to_float(reinterpret_cast<const bfloat16*>(piece)[column % piece_columns]);
}

// The 16-byte pieces of a strip that a lane moves from or to memory: piece `strip_piece` of rows
// `strip_row(0)`, `strip_row(1)`, ...
inline constexpr int lane_pieces = strip_rows * row_pieces / warp_size;
__device__ inline int strip_row(int i, int lane) {
  return i * (warp_size / row_pieces) + lane / row_pieces;
}
__device__ inline int strip_piece(int lane) {
  return lane % row_pieces;
}

// What store_strip does to a piece on its way: nothing.
struct AsItIs {
  __device__ uint4 operator()(uint4 piece, int /*i*/) const { return piece; }
};

// Copies a strip from shared memory to memory, whole 16-byte pieces; its warp alone has written it.
// `change(piece, i)` of the lane's i-th piece is what is stored.
template <typename Change = AsItIs>
__device__ inline void copy_strip_out(const unsigned char* strip, bfloat16* target, int64_t stride,
                                      int valid_rows, int valid_columns, int lane,
                                      const Change& change = {}) {
  __syncwarp();
#pragma unroll
  for (int i = 0; i < lane_pieces; ++i) {
    const int row = strip_row(i, lane);
    const int piece = strip_piece(lane);
    if (row < valid_rows && piece * piece_columns < valid_columns) {
      const uint4 value = *reinterpret_cast<const uint4*>(strip + panel_offset(row, piece));
      *reinterpret_cast<uint4*>(target + row * stride + piece * piece_columns) = change(value, i);
    }
  }
}

// Stores a warp's strip to memory through its own `scratch` of strip_bytes.
template <typename Change = AsItIs>
__device__ inline void store_strip(const StripOperand& a, unsigned char* scratch, bfloat16* target,
                                   int64_t stride, int valid_rows, int valid_columns, int lane,
                                   const Change& change = {}) {
  write_strip(scratch, a, lane);
  copy_strip_out(scratch, target, stride, valid_rows, valid_columns, lane, change);
  __syncwarp();
}

// The same from accumulators.
template <typename Change = AsItIs>
__device__ inline void store_strip(const float (*c)[4], unsigned char* scratch, bfloat16* target,
                                   int64_t stride, int valid_rows, int valid_columns, int lane,
                                   const Change& change = {}) {
  StripOperand a;
  to_operand(a, c);
  store_strip(a, scratch, target, stride, valid_rows, valid_columns, lane, change);
}

}  // namespace gsa::kernels::cuda
