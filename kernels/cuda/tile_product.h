// A matrix product by tiles of 128 x 256 whose results are worked on before they leave the chip:
// what products with an element-wise operation at their end (swiglu_product*.cu) have in common.
//
// A block is three warpgroups. Two multiply, 64 rows of the tile each, with its 256 columns in
// registers. One thread of the third copies: a *stage* of the ring is 64 of the depth of both
// operands, 16 KB of the left one and 32 KB of the right one, that report to the stage's `full`
// barrier. Two blocks of a cluster have tiles below each other, and so the same right operand:
// each copies half of it to both, so that a multiprocessor asks the L2 cache for 32 KB a stage
// instead of 48. A stage is copied into again when all warps that multiply, of both blocks, have
// arrived at its `empty` barrier.
//
// Blocks stay for as many tiles as there are: a tile's first stages are copied while the one before
// is finished. Tiles that are computed at the same time lie in a square, `tile_group` clusters of
// rows high, so that what they share is in the L2 cache.
#pragma once

#include <algorithm>

#include "kernels/cuda/async_copy.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/wgmma.h"

namespace gsa::kernels::cuda::tile_product {

inline constexpr int groups = 2;  // warpgroups that multiply
inline constexpr int threads = (groups + 1) * warpgroup_threads;
inline constexpr int copier_registers = 40;
inline constexpr int group_registers = 232;

inline constexpr int cluster = 2;
inline constexpr int group_rows = 64;
inline constexpr int tile_rows = groups * group_rows;
inline constexpr int cluster_rows = cluster * tile_rows;
inline constexpr int tile_columns = 256;
inline constexpr int column_tiles = tile_columns / 8;
inline constexpr int tile_group = 8;

inline constexpr int left_bytes = tile_rows * panel_row_bytes;
inline constexpr int right_bytes = tile_columns * panel_row_bytes;
inline constexpr int right_half = right_bytes / cluster;
inline constexpr int stage_bytes = left_bytes + right_bytes;

using Accumulators = float[column_tiles][4];

// The tiles of a product [rows, depth] x [depth, columns].
struct Tiles {
  int rows;     // of clusters
  int columns;  // of tiles
  int steps;    // of a panel's depth

  static Tiles of(int64_t rows, int64_t columns, int64_t depth) {
    const auto parts = [](int64_t count, int64_t size) { return int((count + size - 1) / size); };
    return {parts(rows, cluster_rows), parts(columns, tile_columns), parts(depth, panel_columns)};
  }
  __host__ __device__ int count() const { return rows * columns; }
};

// Where a tile begins.
struct TilePlace {
  int row;
  int column;

  // Tile `index` of the block `rank` of a cluster.
  __device__ TilePlace(const Tiles& tiles, int index, int rank) {
    const int in_group = tile_group * tiles.columns;
    const int first_row = index / in_group * tile_group;
    const int high = min(tile_group, tiles.rows - first_row);
    const int left = index % in_group;
    row = (first_row + left % high) * cluster_rows + rank * tile_rows;
    column = left / high * tile_columns;
  }
};

// Calls `f(place)` for the tiles of this block, one after the other.
template <typename F>
__device__ __forceinline__ void each_tile(const Tiles& tiles, int rank, const F& f) {
  for (int i = int(blockIdx.x) / cluster; i < tiles.count(); i += int(gridDim.x) / cluster) {
    f(TilePlace(tiles, i, rank));
  }
}

// Begins copying a box of a map of panels (tensor_map.h), to this block or to the same place in
// both.
__device__ inline void copy_panels(uint32_t target, const CUtensorMap& map, int column, int row,
                                   uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4}], [%2];\n" ::"r"(target),
      "l"(&map), "r"(barrier), "r"(column), "r"(row)
      : "memory");
}
__device__ inline void copy_panels_to_both(uint32_t target, const CUtensorMap& map, int column,
                                           int row, uint32_t barrier) {
  constexpr uint16_t both = 3;
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;\n" ::"r"(target),
      "l"(&map), "r"(barrier), "r"(column), "r"(row), "h"(both)
      : "memory");
}

// Copies of panels to memory, in groups that a thread waits for.
__device__ inline void copy_panel_out(const CUtensorMap& map, int column, int row,
                                      uint32_t source) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];\n" ::"l"(
          &map),
      "r"(source), "r"(column), "r"(row)
      : "memory");
}
__device__ inline void commit_copies_out() {
  asm volatile("cp.async.bulk.commit_group;\n" ::: "memory");
}
// Until shared memory has been read by all but the last `pending` groups.
template <int pending>
__device__ inline void wait_copies_out() {
  asm volatile("cp.async.bulk.wait_group.read %0;\n" ::"n"(pending) : "memory");
}

// The stages, their barriers, and which comes next.
template <int stages>
class Ring {
 public:
  static constexpr int bytes = stages * stage_bytes;
  static constexpr int barrier_bytes = 2 * stages * 8;

  // `shared` at a multiple of 1024 bytes.
  __device__ Ring(uint32_t shared, uint32_t barriers) : shared_(shared), barriers_(barriers) {}

  // By one thread; all of the cluster wait afterwards.
  __device__ void init() const {
    constexpr int warps = cluster * groups * warpgroup_threads / warp_size;
    for (int stage = 0; stage < stages; ++stage) {
      init_barrier(full(stage), 1);
      init_barrier(empty(stage), warps);
    }
    publish_barriers();
  }

  // The thread that copies: until the next stage may be filled; `full` is told what will come.
  __device__ void begin_stage() const {
    wait_barrier(empty(stage_), phase_ ^ 1);
    arrive_expecting(full(stage_), stage_bytes);
  }
  // A warp that multiplies: until the next stage is there.
  __device__ void wait_stage() const { wait_barrier(full(stage_), phase_); }
  // A warp no longer reads the stage, nor the other block's copy of it.
  __device__ void release(int stage, int lane) const {
    if (lane < cluster) {
      asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];\n" ::"r"(
                       address_in_block(empty(stage), lane))
                   : "memory");
    }
  }
  __device__ void advance() {
    if (++stage_ == stages) {
      stage_ = 0;
      phase_ ^= 1;
    }
  }

  __device__ int stage() const { return stage_; }
  __device__ uint32_t left() const { return shared_ + uint32_t(stage_ * stage_bytes); }
  __device__ uint32_t right() const { return left() + left_bytes; }
  __device__ uint32_t full() const { return full(stage_); }

 private:
  __device__ uint32_t full(int stage) const { return barriers_ + uint32_t(stage * 8); }
  __device__ uint32_t empty(int stage) const { return barriers_ + uint32_t((stages + stage) * 8); }

  uint32_t shared_;
  uint32_t barriers_;
  int stage_ = 0;
  int phase_ = 0;
};

// c = the tile's product, for the 64 rows of a warpgroup. `right` says how the panels of the right
// operand lie (mma.h).
template <PanelRows right, int stages>
__device__ __forceinline__ void multiply_tile(Accumulators& c, Ring<stages>& ring, int steps,
                                              int group, int lane) {
  int before = 0;
  for (int step = 0; step < steps; ++step) {
    ring.wait_stage();
    const uint64_t a = panel_descriptor(ring.left() + uint32_t(group * panel_bytes));
    const uint64_t b = panel_descriptor(ring.right());
    begin_products();
#pragma unroll
    for (int part = 0; part < panel_steps; ++part) {
      warpgroup_product<PanelRows::columns, right>(
          c, a + uint64_t(part) * step_distance<PanelRows::columns>,
          b + uint64_t(part) * step_distance<right>, step + part > 0);
    }
    commit_products();
    if (step > 0) {
      wait_products<1>();
      ring.release(before, lane);
    }
    before = ring.stage();
    ring.advance();
  }
  wait_products();
  ring.release(before, lane);
  hold(c, column_tiles);
}

// Launches a kernel of tiles: as many clusters as run at once, or as there are tiles.
template <typename Args>
void launch_tiles(Stream& stream, void (*kernel)(Args), const Args& args, const Tiles& tiles,
                  int shared_bytes, const char* name) {
  int device = 0;
  int multiprocessors = 0;
  check(cudaGetDevice(&device), name);
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device), name);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes),
        name);
  const int clusters = std::min(multiprocessors / cluster, tiles.count());
  kernel<<<unsigned(clusters * cluster), threads, size_t(shared_bytes), native(stream)>>>(args);
  check_launch(name);
}

}  // namespace gsa::kernels::cuda::tile_product
