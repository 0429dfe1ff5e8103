// A matrix product by tiles of 128 x 256 whose results are worked on before they leave the chip:
// what products with an element-wise operation at their end (swiglu_product*.cu) have in common.
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
// Blocks stay until all tiles are taken. A cluster begins with the tile of its number; the next
// ones it takes from a counter in memory, so that clusters that come late, where another kernel
// (NCCL's) keeps a multiprocessor, take fewer. The first block's copying thread takes them, a tile
// ahead, and tells both blocks through a queue in shared memory. Tiles that are computed at the
// same time lie in a square, `tile_group` clusters of rows high, so that what they share is in the
// L2 cache.
#pragma once

#include "kernels/cuda/async_copy.h"
#include "kernels/cuda/wgmma.h"

namespace gsa::kernels::cuda::tile_product {

inline constexpr int groups = 2;  // warpgroups that multiply
inline constexpr int threads = (groups + 1) * warpgroup_threads;
inline constexpr int finishing_warps = warpgroup_threads / warp_size - 1;
inline constexpr int finishers = finishing_warps * warp_size;  // threads
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
inline constexpr int queue_slots = 4;
inline constexpr int barrier_bytes = 2 * (stages + queue_slots) * 8 + queue_slots * 4;

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
  int* taken;   // tiles taken after each cluster's first one

  static Tiles of(int64_t rows, int64_t columns, int64_t depth, std::byte* workspace) {
    const auto parts = [](int64_t count, int64_t size) { return int((count + size - 1) / size); };
    return {parts(rows, cluster_rows), parts(columns, tile_columns), parts(depth, panel_columns),
            reinterpret_cast<int*>(workspace)};
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

// The tiles of a cluster, as one of those who want to know them reads them. An entry of the queue
// is read by everyone in both blocks before another one takes its slot.
class TileQueue {
 public:
  // `shared`: barriers of full and of empty slots, then the slots.
  __device__ explicit TileQueue(uint32_t shared)
      : shared_(shared), first_(int(blockIdx.x) / cluster) {}

  // By one thread; `readers` of both blocks.
  __device__ void init(int readers) const {
    for (int slot = 0; slot < queue_slots; ++slot) {
      init_barrier(full(slot), 1);
      init_barrier(empty(slot), readers);
    }
    publish_barriers();
  }

  // The next tile, for all lanes of a warp; a number beyond the last when there is none.
  __device__ int next(int lane) {
    int tile = first_;
    if (entry_ > 0) {
      wait_barrier(full(slot()), phase());
      tile = __shfl_sync(~0U, lane == 0 ? read() : 0, 0);
      if (lane == 0) {
        tell_read();
      }
    }
    ++entry_;
    return tile;
  }
  // The same for a thread alone, which has the block's barrier expect the entry.
  __device__ int next_alone() {
    int tile = first_;
    if (entry_ > 0) {
      arrive_expecting(full(slot()), int(sizeof(int)));
      wait_barrier(full(slot()), phase());
      tile = read();
      tell_read();
    }
    ++entry_;
    return tile;
  }

  // Takes the tile after that which next_alone gave last; tells it to both blocks. Apart, so that
  // the counter has time to answer.
  __device__ static int take(const Tiles& tiles) {
    return int(gridDim.x) / cluster + atomicAdd(tiles.taken, 1);
  }
  __device__ void tell(int tile) const {
    wait_barrier(empty(slot()), phase() ^ 1);
    for (int rank = 0; rank < cluster; ++rank) {
      hand_over_word(address_in_block(place(slot()), rank), tile,
                     address_in_block(full(slot()), rank));
    }
  }

 private:
  __device__ int slot() const { return (entry_ - 1) % queue_slots; }
  __device__ int phase() const { return (entry_ - 1) / queue_slots & 1; }
  __device__ uint32_t full(int slot) const { return shared_ + uint32_t(slot * 8); }
  __device__ uint32_t empty(int slot) const { return full(queue_slots + slot); }
  __device__ uint32_t place(int slot) const { return full(2 * queue_slots) + uint32_t(slot * 4); }

  __device__ int read() const { return load_word(place(slot())); }
  // To the first block, which writes the slots: what was read is in a register, and nothing written
  // is handed over.
  __device__ void tell_read() const { arrive_in_block(empty(slot()), 0); }

  uint32_t shared_;
  int first_;
  int entry_ = 0;  // of the next one; the first is not in the queue
};

// What the parts of a block know of a product. `Product` has
// - CUtensorMap left, of boxes of tile_rows rows; Tiles tiles;
// - static constexpr PanelRows right: how panels of the right operand lie;
// - copy_right(ring, place, step, rank): begins copying this block's half of a stage's right
//   operand;
// - static constexpr int finish_bytes: shared memory of those that finish, a multiple of 1024;
//   finish_barriers: barriers of one arrival each there; finish_readers: queues that each of their
//   warps reads, its own included;
// - Finisher(product, memory, barriers, queue, thread, rank), made once by each of the finishers;
// - finisher.finish(results, place, wait): takes a tile's results, rounded to bfloat16, to where
//   they go. They are there after wait(): four panels of 64 x 64 for the first 64 rows, then four.

// The thread that copies.
template <typename Product>
__device__ __forceinline__ void copy_stages(const Product& product, Ring ring, TileQueue queue,
                                            int rank) {
  const Tiles& tiles = product.tiles;
  const int tell_after = min(stages, tiles.steps) - 1;
  for (int tile = queue.next_alone(); tile < tiles.count(); tile = queue.next_alone()) {
    const TilePlace place(tiles, tile, rank);
    const int taken = rank == 0 ? TileQueue::take(tiles) : 0;
    for (int step = 0; step < tiles.steps; ++step) {
      ring.begin_stage();
      copy_panels(ring.left(), product.left, step * panel_columns, place.row, ring.full());
      product.copy_right(ring, place, step, rank);
      ring.advance();
      if (rank == 0 && step == tell_after) {
        queue.tell(taken);
      }
    }
  }
}

// A warpgroup that multiplies.
template <typename Product>
__device__ __forceinline__ void multiply(const Product& product, Ring ring, TileQueue queue,
                                         unsigned char* results, int group) {
  const int lane = int(threadIdx.x) % warp_size;
  const int warp = int(threadIdx.x) % warpgroup_threads / warp_size;
  unsigned char* strip = results + group * group_panels * panel_bytes + warp * strip_bytes;
  while (queue.next(lane) < product.tiles.count()) {
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
  }
  // Of the last tile, which nobody waits for otherwise.
  sync_threads<drained_barrier>(result_threads);
}

// The warps that finish.
template <typename Product>
__device__ __forceinline__ void finish(const Product& product, typename Product::Finisher finisher,
                                       TileQueue queue, const unsigned char* results, int lane,
                                       int rank) {
  arrive_threads(drained_barrier, result_threads);  // nothing is there yet
  for (int tile = queue.next(lane); tile < product.tiles.count(); tile = queue.next(lane)) {
    finisher.finish(results, TilePlace(product.tiles, tile, rank),
                    [] { sync_threads<filled_barrier>(result_threads); });
    arrive_threads(drained_barrier, result_threads);
  }
}

template <typename Product>
inline constexpr int shared_bytes = ring_bytes + result_bytes + Product::finish_bytes +
                                    barrier_bytes + Product::finish_barriers * 8;

template <typename Product>
__global__ void __cluster_dims__(cluster, 1, 1) __launch_bounds__(threads, 1)
    tile_kernel(const __grid_constant__ Product product) {
  unsigned char* memory = block_memory();
  unsigned char* results = memory + ring_bytes;
  unsigned char* others = results + result_bytes;
  const uint32_t barriers = shared_address(others + Product::finish_bytes);
  const uint32_t finish_barriers = barriers + barrier_bytes;
  const Ring ring(shared_address(memory), barriers);
  const TileQueue queue(barriers + 2 * stages * 8);
  const int rank = cluster_rank();
  const int group = int(threadIdx.x) / warpgroup_threads;
  if (threadIdx.x == 0) {
    constexpr int multiplying_warps = groups * warpgroup_threads / warp_size;
    for (int i = 0; i < Product::finish_barriers; ++i) {
      init_barrier(finish_barriers + uint32_t(i * 8), 1);
    }
    queue.init(cluster * (multiplying_warps + finishing_warps * Product::finish_readers + 1));
    ring.init();
  }
  sync_cluster();
  if (group < groups) {
    take_registers<group_registers>();
    multiply(product, ring, queue, results, group);
  } else {
    give_registers<other_registers>();
    const int thread = int(threadIdx.x) - groups * warpgroup_threads;
    if (thread < finishers) {
      finish(product,
             typename Product::Finisher(product, others, finish_barriers, queue, thread, rank),
             queue, results, thread % warp_size, rank);
    } else if (thread == finishers) {
      copy_stages(product, ring, queue, rank);
    }
    __syncwarp();
  }
  // What the other block still copies and says comes to this one's memory.
  sync_cluster();
}

// What a thread finishes at a time: 16 bytes of a row. A warp takes four rows of 64 columns
// together.
inline constexpr int warp_rows = warp_size / row_pieces;
__device__ inline int piece_row(int lane) {
  return lane / row_pieces;
}
__device__ inline int piece_column(int lane) {
  return lane % row_pieces * piece_columns;
}
// Where row `row` of a tile's results, in panel `panel` of their columns, begins.
__device__ inline const unsigned char* panel_row(const unsigned char* results, int row, int panel) {
  return results + (row / group_rows * group_panels + panel) * panel_bytes +
         row % group_rows * panel_row_bytes;
}
// A lane's piece of rows [row, row + 4) of a tile's results, in panel `panel` of their columns.
__device__ inline uint4 result_piece(const unsigned char* results, int row, int panel, int lane) {
  const int own = row + piece_row(lane);
  const unsigned char* start = panel_row(results, own / group_rows * group_rows, panel);
  return *reinterpret_cast<const uint4*>(start + panel_offset(own % group_rows, lane % row_pieces));
}

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
