// How the CUDA operations divide their workspaces. Sizes follow from shapes alone, so that they are
// known before a run and on a machine without a GPU; plain C++, no CUDA.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace gsa::kernels::cuda {

// Parts of a workspace begin at multiples of this.
inline constexpr size_t workspace_alignment = 256;

// Hands out the parts of a workspace one after the other; `end` is the size of all.
class WorkspaceLayout {
 public:
  // The offset of a new part of `bytes`.
  constexpr size_t add(size_t bytes) {
    const size_t offset = end_;
    end_ += (bytes + workspace_alignment - 1) / workspace_alignment * workspace_alignment;
    return offset;
  }
  constexpr size_t end() const { return end_; }

 private:
  size_t end_ = 0;
};

// Matrix products: what cuBLASLt may use, as NVIDIA advises for Hopper.
inline constexpr size_t matmul_workspace_bytes = size_t{32} << 20;

// Products by tiles (tile_product.h): the number of tiles taken.
inline constexpr size_t tile_workspace_bytes = sizeof(int);

// Squared norm: the input is divided into this many parts, whatever the GPU.
inline constexpr int squared_norm_blocks = 1024;

// Norms backward: blocks that share the rows. All of them are resident at once on a GPU of 132
// multiprocessors, each with as many blocks as take norm_columns_in_flight columns (4 blocks of 256
// threads at 2048); each leaves a row of partial sums of the weight's gradient.
inline constexpr int64_t norm_multiprocessors = 132;
inline constexpr int64_t norm_columns_in_flight = 4 * 2048;
inline constexpr int64_t norm_most_resident = 16;
inline int64_t norm_blocks(int64_t rows, int64_t columns) {
  const int64_t resident = std::clamp<int64_t>(
      norm_columns_in_flight / std::max<int64_t>(columns, 1), 1, norm_most_resident);
  return std::min(std::max<int64_t>(rows, 1), norm_multiprocessors * resident);
}

// Embedding gradient: tokens are sorted, with where each came from; the sorted list is cut into
// tiles of `embedding_tile` tokens; a tile leaves the sums of the runs of equal tokens that its two
// ends cut.
inline constexpr int64_t embedding_tile = 32;
inline constexpr int embedding_ends = 2;
struct EmbeddingWorkspace {
  int64_t tiles;
  size_t keys;              // [N] int32: what is sorted
  size_t positions;         // [N] int32: 0, 1, ..., N-1
  size_t sorted_tokens;     // [N] int32
  size_t sorted_positions;  // [N] int32
  size_t end_sums;          // [tiles, 2, D] float32
  size_t sort;              // scratch of the radix sort
  size_t sort_bytes;
  size_t bytes;  // in all

  EmbeddingWorkspace(int64_t tokens, int64_t columns)
      : tiles((tokens + embedding_tile - 1) / embedding_tile) {
    // What the sort asks for: two spare copies of keys and values, and tables by digit that grow by
    // 1 KiB for each few thousand keys. Checked when it runs.
    constexpr size_t sort_fixed_bytes = size_t{1} << 20;
    constexpr size_t sort_bytes_a_token = 12;
    const size_t list = size_t(tokens) * sizeof(int32_t);
    WorkspaceLayout layout;
    keys = layout.add(list);
    positions = layout.add(list);
    sorted_tokens = layout.add(list);
    sorted_positions = layout.add(list);
    end_sums = layout.add(size_t(tiles) * embedding_ends * size_t(columns) * sizeof(float));
    sort_bytes = sort_fixed_bytes + size_t(tokens) * sort_bytes_a_token;
    sort = layout.add(sort_bytes);
    bytes = layout.end();
  }
};

}  // namespace gsa::kernels::cuda
