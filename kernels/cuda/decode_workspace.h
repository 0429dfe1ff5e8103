// The workspace of products of a decode step for many sequences. Plain C++: workspace.cpp compiles
// it in every build.
#pragma once

#include "kernels/cuda/workspace.h"

namespace gsa::kernels::cuda {

inline constexpr int64_t decode_few_rows =
    8;  // up to these, one kernel does all, without workspace

// The normalized input, gates and ups, and cuBLASLt's own. `element` is the size of an element.
struct DecodeWorkspace {
  size_t normalized;   // [B, K]
  size_t inverse_rms;  // [B] float32
  size_t product;      // [B, 2N], with swiglu
  size_t matmul;
  size_t bytes;  // in all

  DecodeWorkspace(int64_t rows, int64_t columns, int64_t gated_columns, size_t element) {
    WorkspaceLayout layout;
    normalized = layout.add(size_t(rows * columns) * element);
    inverse_rms = layout.add(size_t(rows) * sizeof(float));
    product = layout.add(size_t(rows * gated_columns) * element);
    matmul = layout.add(matmul_workspace_bytes);
    bytes = layout.end();
  }
};

}  // namespace gsa::kernels::cuda
