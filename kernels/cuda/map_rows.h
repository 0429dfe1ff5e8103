// Element-wise operations over the rows of matrices: one kernel, and an operation that says what
// happens to `width` neighbouring elements.
//
//   struct Operation { template <int width> __device__ void apply(int64_t row, int64_t column)
//   const; };
//
// A thread takes one vector (kernels/cuda/vector.h); a block is map_threads threads, as many
// columns of vectors as wastes the fewest and the rest rows. Everything is read once and written
// once: the floor is the bytes of the operands over the memory's bandwidth. The last columns, too
// few for a vector, go one by one.
#pragma once

#include "kernels/cuda/launch.h"

namespace gsa::kernels::cuda {

inline constexpr int map_threads = 256;
inline constexpr int map_min_columns = 32;  // a warp stays within one row

template <int width, typename Operation>
__global__ void __launch_bounds__(map_threads)
    map_rows_kernel(Operation operation, int64_t rows, int64_t columns, unsigned column_blocks) {
  // One division a block, the same for all its threads.
  const int64_t row = int64_t(blockIdx.x / column_blocks) * blockDim.y + threadIdx.y;
  const int64_t vector = int64_t(blockIdx.x % column_blocks) * blockDim.x + threadIdx.x;
  const int64_t column = vector * width;
  if (row >= rows || column >= columns) {
    return;
  }
  if (column + width <= columns) {
    operation.template apply<width>(row, column);
  } else {
    for (int64_t rest = column; rest < columns; ++rest) {
      operation.template apply<1>(row, rest);
    }
  }
}

// Threads along a row: a power of two, the largest of those that leave the fewest idle.
inline int map_columns(int64_t vectors) {
  int best = map_min_columns;
  int64_t fewest = blocks_of(vectors, best) * int64_t{best};
  for (int threads = 2 * map_min_columns; threads <= map_threads; threads *= 2) {
    const int64_t taken = blocks_of(vectors, threads) * int64_t{threads};
    if (taken <= fewest) {
      best = threads;
      fewest = taken;
    }
  }
  return best;
}

// Queues `operation` over [rows, columns]; `vectorized` says that all operands are aligned, and are
// to be taken `wide` elements at a time.
template <int wide = vector_width, typename Operation>
void map_rows(Stream& stream, int64_t rows, int64_t columns, bool vectorized,
              const Operation& operation, const char* what) {
  if (rows == 0 || columns == 0) {
    return;
  }
  with_width<wide>(vectorized, [&](auto width) {
    const int64_t vectors = (columns + width() - 1) / width();
    const int threads = map_columns(vectors);
    const dim3 block(unsigned(threads), unsigned(map_threads / threads));
    const unsigned column_blocks = blocks_of(vectors, threads);
    const unsigned row_blocks = blocks_of(rows, block.y);
    map_rows_kernel<width()><<<column_blocks * row_blocks, block, 0, native(stream)>>>(
        operation, rows, columns, column_blocks);
    check_launch(what);
  });
}

}  // namespace gsa::kernels::cuda
