// kernels/cuda/wgmma.h on the emulator: each thread computes its own elements.
#pragma once

#include "kernels/cuda/mma.h"

namespace gsa::kernels::cuda {

inline constexpr int warpgroup_threads = 4 * warp_size;

inline void publish_shared() {}
inline int same_in_warp(int x) {
  return x;
}
inline void begin_products() {}
inline void commit_products() {}
inline void hold(float (*)[4], int) {}
// For the whole warp at once, as the hardware does it.
template <int pending = 0>
void wait_products() {
  meet_warp();
}

// As the hardware's, in units of 16 bytes: an address, and the distances of the next panel and of
// the next eight rows.
inline constexpr int next_panel_shift = 32;
inline constexpr int eight_rows_shift = 48;
inline uint64_t panel_descriptor(uint32_t address, uint32_t next_panel = panel_bytes,
                                 uint32_t eight_rows = 8 * panel_row_bytes) {
  return uint64_t{eight_rows / piece_bytes} << eight_rows_shift |
         uint64_t{next_panel / piece_bytes} << next_panel_shift | address / piece_bytes;
}
inline uint32_t descriptor_bytes(uint64_t descriptor, int shift, int bits) {
  return uint32_t((descriptor >> shift & ((uint64_t{1} << bits) - 1)) * piece_bytes);
}
template <PanelRows rows>
inline constexpr uint64_t step_distance =
    (rows == PanelRows::columns ? 16 * int(sizeof(bfloat16)) : 16 * panel_row_bytes) / piece_bytes;

// The element at a depth and a row or column of the operand of a descriptor.
template <PanelRows rows>
float element(uint64_t descriptor, int depth, int column) {
  constexpr int bits = eight_rows_shift - next_panel_shift;
  const uint32_t start = descriptor_bytes(descriptor, 0, next_panel_shift);
  const auto next_panel = int(descriptor_bytes(descriptor, next_panel_shift, bits));
  const auto eight_rows = int(descriptor_bytes(descriptor, eight_rows_shift, bits));
  const int offset = rows == PanelRows::columns
                         ? column / 8 * eight_rows + column % 8 * panel_row_bytes + depth * 2
                         : column / panel_columns * next_panel + depth * panel_row_bytes +
                               column % panel_columns * 2;
  bfloat16 x;
  std::memcpy(&x, emulated::pointer_to(swizzled(start + uint32_t(offset))), sizeof(x));
  return to_float(x);
}

template <PanelRows left, PanelRows right, int tiles>
void warpgroup_product(float (&c)[tiles][4], uint64_t a, uint64_t b, bool adds) {
  constexpr int depth = 16;
  const int lane = int(threadIdx.x) % warp_size;
  const int first_row = int(threadIdx.x) % warpgroup_threads / warp_size * 16 + lane / 4;
  for (int tile = 0; tile < tiles; ++tile) {
    for (int i = 0; i < 4; ++i) {
      float sum = adds ? c[tile][i] : 0.0F;
      for (int k = 0; k < depth; ++k) {
        sum += element<left>(a, k, first_row + i / 2 * 8) *
               element<right>(b, k, tile * 8 + lane % 4 * 2 + i % 2);
      }
      c[tile][i] = sum;
    }
  }
}

// With the left operand in the registers of the warp's lanes.
template <PanelRows right, int tiles>
void warpgroup_product(float (&c)[tiles][4], const uint32_t (&a)[4], uint64_t b, bool adds) {
  constexpr int depth = 16;
  emulated::Warp& warp = *emulated::current().warp;
  const int lane = int(threadIdx.x) % warp_size;
  std::copy_n(a, 4, warp.operands[size_t(lane)].begin());
  wait_products();
  for (int tile = 0; tile < tiles; ++tile) {
    for (int i = 0; i < 4; ++i) {
      float sum = adds ? c[tile][i] : 0.0F;
      for (int k = 0; k < depth; ++k) {
        sum += held(warp, lane / 4 + i / 2 * 8, k) *
               element<right>(b, k, tile * 8 + lane % 4 * 2 + i % 2);
      }
      c[tile][i] = sum;
    }
  }
  wait_products();
}

}  // namespace gsa::kernels::cuda
