// Token embedding and its gradient.
//
// Forward copies rows. Backward adds the rows of equal tokens, without atomics and always in the
// order of the tokens' positions:
//
//   1. Positions are sorted by token (a radix sort, which keeps equal tokens in order).
//   2. The sorted list is cut into tiles of `embedding_tile`. A block takes a tile and
//      sum_threads vectors of columns, and adds the rows of each run of equal tokens. A run that
//      lies inside the tile goes to the table; the run that begins before the tile and the run that
//      goes on after it leave their sums in the workspace (places 0 and 1 of the tile).
//   3. For each run that crosses tiles, the block of the tile in which it begins adds these sums in
//      the order of the tiles and writes the table.
//
// A tile's rows are independent loads; a token that makes up the whole batch costs one load a tile
// in step 3. Bytes: the gradient once (2 or 4 bytes an element), table rows twice for each
// different token, and at most 2/embedding_tile of the gradient's rows in float32 for the cut runs.
#include <cub/device/device_radix_sort.cuh>

#include "kernels/backends.h"
#include "kernels/cuda/dependent_launch.h"
#include "kernels/cuda/map_rows.h"
#include "kernels/cuda/workspace.h"

namespace gsa::kernels::cuda {
namespace {

constexpr int sum_threads = 128;
constexpr int rows_in_flight = 4;
static_assert(embedding_tile % rows_in_flight == 0);

// A token outside the vocabulary makes its row NaN: nothing is read out of bounds, and the loss
// tells.
template <typename T>
struct Gather {
  const int32_t* tokens;
  Rows<const T> table;
  Rows<T> output;
  int64_t vocabulary;

  template <int width>
  __device__ void apply(int64_t row, int64_t column) const {
    let_next_start();  // a decode step's first product: its weights
    const int32_t token = tokens[row];
    if (token >= 0 && token < vocabulary) {
      Vector<T, width>::load(table.at(token, column)).store(output.at(row, column));
    } else {
      float x[width];
#pragma unroll
      for (int i = 0; i < width; ++i) {
        x[i] = __int_as_float(0x7fffffff);  // NaN
      }
      store(output.at(row, column), x);
    }
  }
};

// What is sorted: the tokens, those outside the vocabulary as one token past its end, and their
// positions.
struct ListTokens {
  const int32_t* tokens;
  int32_t vocabulary;
  int32_t* keys;
  int32_t* positions;

  template <int width>
  __device__ void apply(int64_t /*row*/, int64_t column) const {
#pragma unroll
    for (int i = 0; i < width; ++i) {
      const int32_t token = tokens[column + i];
      keys[column + i] = token >= 0 && token < vocabulary ? token : vocabulary;
      positions[column + i] = int32_t(column) + i;
    }
  }
};

// The sorted list and where its sums go.
template <typename T>
struct Scatter {
  const int32_t* tokens;     // [count], sorted
  const int32_t* positions;  // [count]: where each came from
  int64_t count;
  int32_t vocabulary;
  Rows<const T> grad_output;
  Rows<float> grad_table;
  float* end_sums;  // [tiles, embedding_ends, columns]
  int64_t columns;

  __device__ bool starts_run(int64_t i) const { return i == 0 || tokens[i - 1] != tokens[i]; }
  __device__ bool ends_run(int64_t i) const { return i + 1 == count || tokens[i + 1] != tokens[i]; }
  __device__ float* end_sum(int64_t tile, int end, int64_t column) const {
    return end_sums + (tile * embedding_ends + end) * columns + column;
  }
  template <int width>
  __device__ void add_to_table(int32_t token, int64_t column, const float (&sum)[width]) const {
    if (token == vocabulary) {  // not a token
      return;
    }
    float total[width];
    load(grad_table.at(token, column), total);
#pragma unroll
    for (int i = 0; i < width; ++i) {
      total[i] += sum[i];
    }
    store(grad_table.at(token, column), total);
  }
};

template <typename T, int width>
__global__ void __launch_bounds__(sum_threads) sum_tiles_kernel(const Scatter<T> scatter) {
  const int64_t column = (int64_t{blockIdx.y} * sum_threads + threadIdx.x) * width;
  const int64_t tile = blockIdx.x;
  const int64_t first = tile * embedding_tile;
  const int64_t end = min(first + embedding_tile, scatter.count);
  if (column >= scatter.columns) {
    return;
  }
  bool from_before = !scatter.starts_run(first);
  float sum[width] = {};
  for (int64_t base = first; base < end; base += rows_in_flight) {
    Vector<T, width> rows[rows_in_flight];
#pragma unroll
    for (int i = 0; i < rows_in_flight; ++i) {
      if (base + i < end) {
        const int64_t position = scatter.positions[base + i];
        rows[i] = Vector<T, width>::load(scatter.grad_output.at(position, column));
      }
    }
#pragma unroll
    for (int i = 0; i < rows_in_flight; ++i) {
      const int64_t at = base + i;
      if (at >= end) {
        break;
      }
      float x[width];
      rows[i].unpack(x);
#pragma unroll
      for (int j = 0; j < width; ++j) {
        sum[j] += x[j];
      }
      const bool run_ends = scatter.ends_run(at);
      if (from_before && (run_ends || at + 1 == end)) {
        store(scatter.end_sum(tile, 0, column), sum);
      } else if (run_ends) {
        scatter.add_to_table(scatter.tokens[at], column, sum);
      } else if (at + 1 == end) {
        store(scatter.end_sum(tile, 1, column), sum);
      }
      if (run_ends) {
        from_before = false;
#pragma unroll
        for (int j = 0; j < width; ++j) {
          sum[j] = 0;
        }
      }
    }
  }
}

template <typename T, int width>
__global__ void __launch_bounds__(sum_threads) join_tiles_kernel(const Scatter<T> scatter) {
  const int64_t column = (int64_t{blockIdx.y} * sum_threads + threadIdx.x) * width;
  const int64_t tile = blockIdx.x;
  const int64_t first = tile * embedding_tile;
  const int64_t last = min(first + embedding_tile, scatter.count) - 1;
  // Only the run that goes on after this tile, and only if it begins in it.
  const int32_t token = scatter.tokens[last];
  const bool begins_here = scatter.tokens[first] != token || scatter.starts_run(first);
  if (column >= scatter.columns || scatter.ends_run(last) || !begins_here) {
    return;
  }
  float sum[width];
  load(scatter.end_sum(tile, 1, column), sum);
  for (int64_t next = tile + 1;
       next * embedding_tile < scatter.count && scatter.tokens[next * embedding_tile] == token;
       ++next) {
    float x[width];
    load(scatter.end_sum(next, 0, column), x);
#pragma unroll
    for (int i = 0; i < width; ++i) {
      sum[i] += x[i];
    }
  }
  scatter.add_to_table(token, column, sum);
}

// Bits that tell the tokens 0 to `vocabulary`, that one included, apart.
int token_bits(int64_t vocabulary) {
  int bits = 1;
  while ((int64_t{1} << bits) <= vocabulary) {
    ++bits;
  }
  return bits;
}

// Fills the workspace's sorted lists.
void sort_tokens(Stream& stream, const EmbeddingBackward& args, const EmbeddingWorkspace& layout,
                 std::byte* workspace) {
  const int64_t count = args.tokens.dim(0);
  const auto vocabulary = int32_t(args.grad_table.dim(0));
  const auto list = [&](size_t offset) { return reinterpret_cast<int32_t*>(workspace + offset); };
  const ListTokens listing{elements_of<int32_t>(args.tokens), vocabulary, list(layout.keys),
                           list(layout.positions)};
  map_rows(stream, 1, count, false, listing, "embedding_backward");
  const auto sort = [&](void* scratch, size_t& bytes) {
    check(cub::DeviceRadixSort::SortPairs(
              scratch, bytes, list(layout.keys), list(layout.sorted_tokens), list(layout.positions),
              list(layout.sorted_positions), int(count), 0, token_bits(vocabulary), native(stream)),
          "sorting tokens");
  };
  size_t needed = 0;
  sort(nullptr, needed);
  if (needed > layout.sort_bytes) {
    throw std::logic_error("sorting " + std::to_string(count) + " tokens takes " +
                           std::to_string(needed) + " bytes of scratch memory, more than the " +
                           std::to_string(layout.sort_bytes) + " planned");
  }
  sort(workspace + layout.sort, needed);
}

}  // namespace

void embedding_forward(Stream& stream, const EmbeddingForward& args) {
  with_element(args.table.dtype(), "embedding_forward", [&](auto element) {
    using T = decltype(element);
    map_rows(stream, args.output.dim(0), args.output.dim(1), are_aligned(args.table, args.output),
             Gather<T>{elements_of<int32_t>(args.tokens), rows_of<T>(args.table),
                       rows_of<T>(args.output), args.table.dim(0)},
             "embedding_forward");
  });
}

void embedding_backward(Stream& stream, const EmbeddingBackward& args, std::byte* workspace) {
  const int64_t count = args.tokens.dim(0);
  const int64_t columns = args.grad_table.dim(1);
  if (count == 0) {
    return;
  }
  const EmbeddingWorkspace layout(count, columns);
  sort_tokens(stream, args, layout, workspace);
  const auto list = [&](size_t offset) {
    return reinterpret_cast<const int32_t*>(workspace + offset);
  };
  with_element(args.grad_output.dtype(), "embedding_backward", [&](auto element) {
    using T = decltype(element);
    const Scatter<T> scatter{list(layout.sorted_tokens),
                             list(layout.sorted_positions),
                             count,
                             int32_t(args.grad_table.dim(0)),
                             rows_of<T>(args.grad_output),
                             rows_of<float>(args.grad_table),
                             reinterpret_cast<float*>(workspace + layout.end_sums),
                             columns};
    const bool whole = columns % vector_width == 0;
    with_width(whole && are_aligned(args.grad_output, args.grad_table), [&](auto width) {
      const dim3 grid(unsigned(layout.tiles), blocks_of(columns, sum_threads * width()));
      sum_tiles_kernel<T, width()><<<grid, sum_threads, 0, native(stream)>>>(scatter);
      check_launch("embedding_backward");
      join_tiles_kernel<T, width()><<<grid, sum_threads, 0, native(stream)>>>(scatter);
      check_launch("embedding_backward");
    });
  });
}

}  // namespace gsa::kernels::cuda
