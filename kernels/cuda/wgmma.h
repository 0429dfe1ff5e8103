// Products by a warpgroup: four warps multiply 64 rows at once, the right operand read from shared
// memory once for all of them, the left one from there too or from registers.
//
// Panels and strips are those of mma.h: the permutation of a panel's pieces is the hardware's
// 128-byte swizzle, and a warp's 16 of the 64 rows lie in its registers as they do there. Panels
// begin at multiples of 1024 bytes.
//
// Order of things: what other threads' ordinary stores (and cp.async) put into shared memory is
// seen once each of them has called `publish_shared` before a barrier. `begin_products`, products,
// `commit_products`; accumulators and left operands in registers are not touched until
// `wait_products` has returned.
#pragma once

#include "kernels/cuda/mma.h"

namespace gsa::kernels::cuda {

inline constexpr int warpgroup_threads = 4 * warp_size;

// What this thread has written to shared memory may be read by products after the next barrier.
__device__ inline void publish_shared() {
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}

__device__ inline void begin_products() {
  asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}
__device__ inline void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}

// Keeps the compiler from moving uses of a product's registers across this line.
__device__ inline void hold(float (*c)[4], int tiles) {
#pragma unroll
  for (int tile = 0; tile < tiles; ++tile) {
    asm volatile(""
                 : "+f"(c[tile][0]), "+f"(c[tile][1]), "+f"(c[tile][2]),
                   "+f"(c[tile][3])::"memory");
  }
}

// Until no more than `pending` committed groups of products are under way.
template <int pending = 0>
__device__ inline void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(pending) : "memory");
}

// `x`, the same in all lanes of a warp, where the compiler sees that it is: descriptors made of it
// take no instruction a product to get where products read them.
__device__ inline int same_in_warp(int x) {
  return __shfl_sync(~0U, x, 0);
}

// How the hardware finds a panel of 64 columns: swizzled by 128 bytes, groups of eight rows 1024
// bytes apart, or `eight_rows`. `next_panel`: bytes to the next 64 columns of an operand by depth.
__device__ inline uint64_t panel_descriptor(uint32_t address, uint32_t next_panel = panel_bytes,
                                            uint32_t eight_rows = 8 * panel_row_bytes) {
  constexpr uint64_t unit = 16;
  constexpr uint64_t swizzle_128 = uint64_t{1} << 62;
  return swizzle_128 | uint64_t(eight_rows / unit) << 32 | uint64_t(next_panel / unit) << 16 |
         (address & 0x3ffffU) / unit;
}

// Distance of a step of depth 16 in a descriptor's address.
template <PanelRows rows>
inline constexpr uint64_t step_distance = (rows == PanelRows::columns ? 16 * sizeof(bfloat16)
                                                                      : 16 * panel_row_bytes) /
                                          16;

// Accumulators of so many tiles, in the text of an instruction and as its operands.
#define GSA_REGISTERS_4 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define GSA_REGISTERS_8 \
  GSA_REGISTERS_4       \
  ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define GSA_REGISTERS_16                                                             \
  GSA_REGISTERS_8                                                                    \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47" \
  ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define GSA_REGISTERS_32                                                                         \
  GSA_REGISTERS_16                                                                               \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"             \
  ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"             \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111" \
  ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, " \
  "%127"
#define GSA_TILE(c, i) "+f"(c[i][0]), "+f"(c[i][1]), "+f"(c[i][2]), "+f"(c[i][3])
#define GSA_TILES_4(c) GSA_TILE(c, 0), GSA_TILE(c, 1), GSA_TILE(c, 2), GSA_TILE(c, 3)
#define GSA_TILES_8(c) GSA_TILES_4(c), GSA_TILES_4((c + 4))
#define GSA_TILES_16(c) GSA_TILES_8(c), GSA_TILES_8((c + 8))
#define GSA_TILES_32(c) GSA_TILES_16(c), GSA_TILES_16((c + 16))

// c += a b for 64 columns and one step of depth 16; `a` from registers.
template <PanelRows rows>
__device__ inline void warpgroup_step(float (*c)[4], const uint32_t (&a)[4], uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" GSA_REGISTERS_8
               "}, {%32,%33,%34,%35}, %36, 1, 1, 1, %37;\n"
               : GSA_TILES_8(c)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b),
                 "n"(rows == PanelRows::depth ? 1 : 0));
}

// The same with `a` from shared memory: `left` depth says that a's panel lies by depth.
template <PanelRows left, PanelRows right>
__device__ inline void warpgroup_step(float (*c)[4], uint64_t a, uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" GSA_REGISTERS_8
               "}, %32, %33, 1, 1, 1, %34, %35;\n"
               : GSA_TILES_8(c)
               : "l"(a), "l"(b), "n"(left == PanelRows::depth ? 1 : 0),
                 "n"(right == PanelRows::depth ? 1 : 0));
}

// c += a b over a whole panel of depth 64.
template <PanelRows rows>
__device__ inline void warpgroup_panel(float (*c)[4], const StripOperand& a, uint32_t panel) {
  const uint64_t b = panel_descriptor(panel);
#pragma unroll
  for (int step = 0; step < panel_steps; ++step) {
    warpgroup_step<rows>(c, a[step], b + uint64_t(step) * step_distance<rows>);
  }
}
template <PanelRows left, PanelRows right>
__device__ inline void warpgroup_panels(float (*c)[4], uint32_t left_panel, uint32_t right_panel) {
  const uint64_t a = panel_descriptor(left_panel);
  const uint64_t b = panel_descriptor(right_panel);
#pragma unroll
  for (int step = 0; step < panel_steps; ++step) {
    warpgroup_step<left, right>(c, a + uint64_t(step) * step_distance<left>,
                                b + uint64_t(step) * step_distance<right>);
  }
}

// c += a b, or c = a b unless it `adds`, for 8 columns a tile and one step of depth 16; both from
// shared memory. A left or right operand by depth of more than 64 rows or columns goes on in the
// panel that its descriptor says. The last five: the numbers of the operands behind accumulators.
#define GSA_PRODUCT(tiles, columns, left, right, add, left_by_depth, right_by_depth)              \
  template <PanelRows left_rows, PanelRows right_rows>                                            \
  __device__ inline void warpgroup_product(float(&c)[tiles][4], uint64_t a, uint64_t b,           \
                                           bool adds) {                                           \
    asm volatile(                                                                                 \
        "{\n.reg .pred adds;\nsetp.ne.b32 adds, %" #add                                           \
        ", 0;\n"                                                                                  \
        "wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32.bf16.bf16 {" GSA_REGISTERS_##tiles  \
        "}, %" #left ", %" #right ", adds, 1, 1, %" #left_by_depth ", %" #right_by_depth ";\n}\n" \
        : GSA_TILES_##tiles(c)                                                                    \
        : "l"(a), "l"(b), "r"(int(adds)), "n"(left_rows == PanelRows::depth ? 1 : 0),             \
          "n"(right_rows == PanelRows::depth ? 1 : 0));                                           \
  }
GSA_PRODUCT(4, 32, 16, 17, 18, 19, 20)
GSA_PRODUCT(8, 64, 32, 33, 34, 35, 36)
GSA_PRODUCT(16, 128, 64, 65, 66, 67, 68)
GSA_PRODUCT(32, 256, 128, 129, 130, 131, 132)

// The same for 32 columns with `a` from registers.
template <PanelRows right_rows>
__device__ inline void warpgroup_product(float (&c)[4][4], const uint32_t (&a)[4], uint64_t b,
                                         bool adds) {
  asm volatile(
      "{\n.reg .pred adds;\nsetp.ne.b32 adds, %21, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {" GSA_REGISTERS_4
      "}, {%16, %17, %18, %19}, %20, adds, 1, 1, %22;\n}\n"
      : GSA_TILES_4(c)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(adds)),
        "n"(right_rows == PanelRows::depth ? 1 : 0));
}

}  // namespace gsa::kernels::cuda
