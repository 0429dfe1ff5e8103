// A matrix product by tiles of 128 x 256 whose results are worked on before they leave the chip:
// what a product with an element-wise operation at its end (swiglu_product.h) is made of.
//
// A block is three warpgroups. Two multiply, 64 rows of the tile each, with its 256 columns in
// registers. A thread of the third one's last warp copies: a *stage* of the ring is 64 of the depth
// of both operands, 16 KB of the left one and 32 KB of the right one, that report to the stage's
// `full` barrier. Two blocks of a cluster have tiles below each other, and so the same right
// operand: each copies half of it to both, so that a multiprocessor asks the L2 cache for 32 KB a
// stage instead of 48. A stage is copied into again when all warps that multiply, of both blocks,
// have arrived at its `empty` barrier.
//
// A tile that is done is rounded into eight panels of shared memory, four a warpgroup, and the
// other three warps *finish* it from there, while the next tile is multiplied: tensor cores wait
// for nothing but the rounding.
//
// Blocks stay for as many tiles as there are, each with its share of them from the start: where
// another kernel (NCCL's) keeps a multiprocessor, the blocks that wait for it come last. Tiles that
// are computed at the same time lie in a square, `tile_group` clusters of rows high, so that what
// they share is in the L2 cache.
#pragma once

#include "kernels/cuda/async_copy.h"
#include "kernels/cuda/wgmma.h"

namespace gsa::kernels::cuda::tile_product {

inline constexpr int groups = 2;  // warpgroups that multiply
inline constexpr int threads = (groups + 1) * warpgroup_threads;
inline constexpr int finishers = warpgroup_threads - warp_size;  // threads
inline constexpr int group_registers = 184;
inline constexpr int other_registers = 136;
// What a warpgroup begins with: more together than that would wait for ever.
inline constexpr int first_registers = 168;
static_assert(groups * group_registers + other_registers <= (groups + 1) * first_registers);

inline constexpr int cluster = 2;
inline constexpr int group_rows = 64;
inline constexpr int tile_rows = groups * group_rows;
inline constexpr int cluster_rows = cluster * tile_rows;
inline constexpr int tile_columns = 256;
inline constexpr int column_tiles = tile_columns / 8;
inline constexpr int group_panels = tile_columns / panel_columns;  // of a warpgroup's rows
inline constexpr int tile_group = 8;

inline constexpr int left_bytes = tile_rows * panel_row_bytes;
inline constexpr int right_bytes = tile_columns * panel_row_bytes;
inline constexpr int right_half = right_bytes / cluster;
inline constexpr int stage_bytes = left_bytes + right_bytes;
inline constexpr int stages = 3;
inline constexpr int ring_bytes = stages * stage_bytes;
inline constexpr int result_bytes = groups * group_panels * panel_bytes;
inline constexpr int barrier_bytes = 2 * stages * 8;
inline constexpr int shared_bytes = ring_bytes + result_bytes + barrier_bytes;

// Barriers by number: results are there to be finished, and may be written over.
inline constexpr int filled_barrier = 1;
inline constexpr int drained_barrier = 2;
inline constexpr int result_threads = groups * warpgroup_threads + finishers;

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

// The stages, their barriers, and which comes next.
class Ring {
 public:
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
  // A warp no longer reads the stage, into which both blocks copy: its products have ended, and
  // nothing that it wrote is handed over.
  __device__ void release(int stage, int lane) const {
    if (lane < cluster) {
      arrive_in_block(empty(stage), lane);
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
template <PanelRows right>
__device__ __forceinline__ void multiply_tile(Accumulators& c, Ring& ring, int steps, int group,
                                              int lane) {
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

// What the parts of a block know of a product. `Product` has
// - CUtensorMap left, of boxes of tile_rows rows; Tiles tiles;
// - static constexpr PanelRows right: how panels of the right operand lie;
// - copy_right(ring, place, step, rank): begins copying this block's half of a stage's right
//   operand;
// - finish(results, place, thread, wait), by the finishers: takes a tile's results, rounded to
//   bfloat16, to where they go. They are there after wait(): four panels of 64 x 64 for the first
//   64 rows, then four.

// The thread that copies.
template <typename Product>
__device__ __forceinline__ void copy_stages(const Product& product, Ring ring, int rank) {
  each_tile(product.tiles, rank, [&](const TilePlace& place) {
    for (int step = 0; step < product.tiles.steps; ++step) {
      ring.begin_stage();
      copy_panels(ring.left(), product.left, step * panel_columns, place.row, ring.full());
      product.copy_right(ring, place, step, rank);
      ring.advance();
    }
  });
}

// A warpgroup that multiplies.
template <typename Product>
__device__ __forceinline__ void multiply(const Product& product, Ring ring, unsigned char* results,
                                         int group, int rank) {
  const int lane = int(threadIdx.x) % warp_size;
  const int warp = int(threadIdx.x) % warpgroup_threads / warp_size;
  unsigned char* strip = results + group * group_panels * panel_bytes + warp * strip_bytes;
  each_tile(product.tiles, rank, [&](const TilePlace&) {
    Accumulators c;
    multiply_tile<Product::right>(c, ring, product.tiles.steps, group, lane);
    sync_threads<drained_barrier>(result_threads);
#pragma unroll
    for (int panel = 0; panel < group_panels; ++panel) {
      StripOperand rounded;
      to_operand(rounded, c + panel * panel_tiles);
      write_strip(strip + panel * panel_bytes, rounded, lane);
    }
    arrive_threads(filled_barrier, result_threads);
  });
}

// The warps that finish.
template <typename Product>
__device__ __forceinline__ void finish(const Product& product, const unsigned char* results,
                                       int thread, int rank) {
  each_tile(product.tiles, rank, [&](const TilePlace& place) {
    product.finish(results, place, thread, [] { sync_threads<filled_barrier>(result_threads); });
    arrive_threads(drained_barrier, result_threads);
  });
}

template <typename Product>
__global__ void __cluster_dims__(cluster, 1, 1) __launch_bounds__(threads, 1)
    tile_kernel(const __grid_constant__ Product product) {
  unsigned char* memory = block_memory();
  unsigned char* results = memory + ring_bytes;
  const Ring ring(shared_address(memory), shared_address(results + result_bytes));
  const int rank = cluster_rank();
  const int group = int(threadIdx.x) / warpgroup_threads;
  if (threadIdx.x == 0) {
    ring.init();
  }
  sync_cluster();
  if (group < groups) {
    take_registers<group_registers>();
    multiply(product, ring, results, group, rank);
    // Of the last tile, which nobody waits for otherwise.
    sync_threads<drained_barrier>(result_threads);
  } else {
    give_registers<other_registers>();
    const int thread = int(threadIdx.x) - groups * warpgroup_threads;
    if (thread < finishers) {
      arrive_threads(drained_barrier, result_threads);  // nothing is there yet
      finish(product, results, thread, rank);
    } else if (thread == finishers) {
      copy_stages(product, ring, rank);
    }
    __syncwarp();
  }
  // What the other block still copies and says comes to this one's memory.
  sync_cluster();
}

// What a thread finishes at a time: 16 bytes of a row. The finishers take as many rows of 64
// columns together as they have eighths; the rows of a tile are `rounds` times as many, the last
// ones beyond it.
struct Piece {
  int row;     // of the tile
  int column;  // of the 64
  const uint4* result;

  __device__ Piece(const unsigned char* results, int columns_panel, int round, int thread)
      : row(round * (finishers / row_pieces) + thread / row_pieces),
        column(thread % row_pieces * piece_columns),
        result(reinterpret_cast<const uint4*>(
            results + (row / group_rows * group_panels + columns_panel) * panel_bytes +
            panel_offset(row % group_rows, thread % row_pieces))) {}
};
inline constexpr int rounds = (tile_rows * row_pieces + finishers - 1) / finishers;

// Calls `f` with an index for each of the four words, pairs of bfloat16, of pieces.
template <typename F>
__device__ __forceinline__ void each_word(const F& f) {
#pragma unroll
  for (int i = 0; i < piece_bytes / int(sizeof(uint32_t)); ++i) {
    f(i);
  }
}
__device__ inline uint32_t& word_of(uint4& piece, int i) {
  return reinterpret_cast<uint32_t*>(&piece)[i];
}

}  // namespace gsa::kernels::cuda::tile_product
