// Products of panels by a warpgroup (wgmma.h): 64 rows by 64 columns by 64 deep, the left operand
// from shared memory or from the warps' registers, where it lies as in mma.h.
//
// `order_accumulators`, products, `commit_products`; then neither accumulators nor operands in
// registers are touched until `finish_products` has returned.
#pragma once

#include "kernels/cuda/wgmma.h"

namespace gsa::kernels::cuda {

// Keeps uses of a product's registers on their side of this line.
__device__ inline void hold(float (&c)[panel_tiles][4]) {
#pragma unroll
  for (auto& tile : c) {
    asm volatile("" : "+f"(tile[0]), "+f"(tile[1]), "+f"(tile[2]), "+f"(tile[3])::"memory");
  }
}

// Waits for all products; their accumulators may be used.
template <typename... Accumulators>
__device__ inline void finish_products(Accumulators&... accumulators) {
  wait_products<0>();
  (hold(accumulators), ...);
}

// The panel's part of accumulators over several panels of columns.
__device__ inline StripAccumulator& panel_of(float (*accumulators)[4], int panel) {
  return *reinterpret_cast<StripAccumulator*>(accumulators + panel * panel_tiles);
}

// Distance of a step of depth 16 in an operand's description, which counts in pieces.
template <Major rows>
inline constexpr uint64_t step_pieces = step_bytes<rows> / piece_bytes;

// c += a b, both panels in shared memory.
template <Major a_rows, Major b_rows>
__device__ inline void multiply_shared(StripAccumulator& c, uint32_t a_panel, uint32_t b_panel) {
  const uint64_t a = operand_at(a_panel);
  const uint64_t b = operand_at(b_panel);
#pragma unroll
  for (int step = 0; step < panel_steps; ++step) {
    multiply_async<a_rows, b_rows>(c, a + uint64_t(step) * step_pieces<a_rows>,
                                   b + uint64_t(step) * step_pieces<b_rows>, true);
  }
}

// c += a b, one step of depth 16, `a` in the warps' registers.
template <Major b_rows>
__device__ inline void multiply_async(StripAccumulator& c, const uint32_t (&a)[4], uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "{%32, %33, %34, %35}, %36, 1, 1, 1, %37;\n"
      : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]),
        "+f"(c[1][2]), "+f"(c[1][3]), "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]),
        "+f"(c[3][0]), "+f"(c[3][1]), "+f"(c[3][2]), "+f"(c[3][3]), "+f"(c[4][0]), "+f"(c[4][1]),
        "+f"(c[4][2]), "+f"(c[4][3]), "+f"(c[5][0]), "+f"(c[5][1]), "+f"(c[5][2]), "+f"(c[5][3]),
        "+f"(c[6][0]), "+f"(c[6][1]), "+f"(c[6][2]), "+f"(c[6][3]), "+f"(c[7][0]), "+f"(c[7][1]),
        "+f"(c[7][2]), "+f"(c[7][3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(int(b_rows)));
}

// c += a b over a panel of depth 64, `a` in the warps' registers.
template <Major b_rows>
__device__ inline void multiply_registers(StripAccumulator& c, const StripOperand& a,
                                          uint32_t b_panel) {
  const uint64_t b = operand_at(b_panel);
#pragma unroll
  for (int step = 0; step < panel_steps; ++step) {
    multiply_async<b_rows>(c, a[step], b + uint64_t(step) * step_pieces<b_rows>);
  }
}

}  // namespace gsa::kernels::cuda
