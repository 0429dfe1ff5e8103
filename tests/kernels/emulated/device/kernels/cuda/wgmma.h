// kernels/cuda/wgmma.h on the emulator: each thread computes its own elements.
#pragma once

#include "kernels/cuda/mma.h"

namespace gsa::kernels::cuda {

inline constexpr int warpgroup_threads = 4 * warp_size;

inline void publish_shared() {}
inline void begin_products() {}
inline void commit_products() {}
inline void hold(float (*)[4], int) {}
// For the whole warp at once, as the hardware does it.
template <int pending = 0>
void wait_products() {
  emulated::arrive_at(emulated::current().warp->barrier, warp_size, true, "its warp");
}

// As the hardware's: an address in units of 16 bytes, and the distance of the next panel.
inline constexpr int next_panel_shift = 40;
inline uint64_t panel_descriptor(uint32_t address, uint32_t next_panel = panel_bytes) {
  return uint64_t{next_panel} << next_panel_shift | address / piece_bytes;
}
template <PanelRows rows>
inline constexpr uint64_t step_distance =
    (rows == PanelRows::columns ? 16 * int(sizeof(bfloat16)) : 16 * panel_row_bytes) / piece_bytes;

// The element at a depth and a row or column of the operand of a descriptor.
template <PanelRows rows>
float element(uint64_t descriptor, int depth, int column) {
  constexpr uint64_t address_mask = (uint64_t{1} << next_panel_shift) - 1;
  const auto start = uint32_t((descriptor & address_mask) * piece_bytes);
  const auto next_panel = uint32_t(descriptor >> next_panel_shift);
  const int offset = rows == PanelRows::columns
                         ? column * panel_row_bytes + depth * 2
                         : column / panel_columns * int(next_panel) + depth * panel_row_bytes +
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

}  // namespace gsa::kernels::cuda
