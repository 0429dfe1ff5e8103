// The workspace of products of a decode step for many sequences. Plain C++: workspace.cpp compiles
// it in every build.
#pragma once

#include "kernels/cuda/workspace.h"
#include "kernels/decode.h"

namespace gsa::kernels::cuda {

// Up to these, one kernel does all, without workspace.
inline constexpr int64_t decode_few_rows = decode_few_sequences;

// The normalized input, gates and ups, and cuBLASLt's own.
struct DecodeWorkspace {
  size_t normalized;   // [B, K]
  size_t inverse_rms;  // [B] float32
  size_t product;      // [B, 2N], with swiglu
  size_t matmul;
  size_t bytes;  // in all

  explicit DecodeWorkspace(const DecodeLinear& args) {
    const int64_t rows = args.input.dim(0);
    const int64_t columns = args.input.dim(1);
    const int64_t gated_columns =
        args.activation == DecodeActivation::swiglu ? args.weight.dim(0) : 0;
    const size_t element = size_of(args.input.dtype());
    WorkspaceLayout layout;
    normalized = layout.add(size_t(rows * columns) * element);
    inverse_rms = layout.add(size_t(rows) * sizeof(float));
    product = layout.add(size_t(rows * gated_columns) * element);
    matmul = layout.add(matmul_workspace_bytes);
    bytes = layout.end();
  }
};

// Of a whole step in one kernel: what its blocks tell each other, zero when it begins. A GSA step's
// head is cut into parts of `decode_part` keys and values, each of which leaves `decode_part` sums.
inline constexpr int64_t decode_part = 64;
struct DecodeStepWorkspace {
  size_t arrivals;  // uint32
  size_t scores;    // [parts, decode_part] uint64
  size_t bytes;     // in all

  explicit DecodeStepWorkspace(int64_t parts) {
    WorkspaceLayout layout;
    arrivals = layout.add(sizeof(uint32_t));
    scores = layout.add(size_t(parts * decode_part) * sizeof(uint64_t));
    bytes = layout.end();
  }
};

}  // namespace gsa::kernels::cuda
