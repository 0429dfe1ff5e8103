// How the CPU's operations share their work among OpenMP threads.
//
// Which thread computes an element must never change its bits. Work on independent indices is cut
// into one piece a thread (parallel_for); sums that cross rows are made over blocks of rows that
// follow from the number of rows alone (RowBlocks), and the blocks are added in order.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>

namespace gsa::kernels::cpu {

// Element operations below which starting the threads costs more than it saves.
inline constexpr int64_t min_parallel_work = 16384;

// Calls body(begin, end) on contiguous pieces that make up [0, count), one a thread, and waits.
// `work` is the number of element operations of one index. The body must not throw.
//
// One thread runs the same parallel region: the compiler makes the region's body once. A second
// copy for one thread may be vectorized in another way, and then sums in other bits.
template <typename Body>
void parallel_for(int64_t count, int64_t work, const Body& body) {
  if (count <= 0) {
    return;
  }
  const bool alone = count * work < min_parallel_work;
  const int threads = alone ? 1 : int(std::min<int64_t>(omp_get_max_threads(), count));
#pragma omp parallel num_threads(threads)
  {
    const int64_t team = omp_get_num_threads();
    const int64_t me = omp_get_thread_num();
    body(count * me / team, count * (me + 1) / team);
  }
}

// A partition of rows that depends on nothing but their number.
struct RowBlocks {
  static constexpr int64_t max_blocks = 64;
  static constexpr int64_t min_rows = 16;

  explicit RowBlocks(int64_t row_count)
      : rows(row_count),
        block_rows(std::max(min_rows, (row_count + max_blocks - 1) / max_blocks)),
        count((row_count + block_rows - 1) / block_rows) {}

  int64_t begin(int64_t block) const { return block * block_rows; }
  int64_t end(int64_t block) const { return std::min(rows, (block + 1) * block_rows); }

  int64_t rows;
  int64_t block_rows;
  int64_t count;
};

}  // namespace gsa::kernels::cpu
