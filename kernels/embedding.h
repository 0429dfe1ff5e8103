// Token embedding: a row of the table for every token, and the sum of gradients by row.
#pragma once

#include "kernels/device.h"

namespace gsa::kernels {

// output[n] = table[tokens[n]].
struct EmbeddingForward {
  ConstTensor tokens;  // [N] int32, each in [0, W)
  ConstTensor table;   // [W, D]
  Tensor output;       // [N, D], dtype of the table

  void check() const;
};

// grad_table[w] += sum over the n with tokens[n] = w of grad_output[n], in the order of n: no
// atomics, the same bits every time.
struct EmbeddingBackward {
  ConstTensor tokens;       // [N] int32
  ConstTensor grad_output;  // [N, D]
  Tensor grad_table;        // [W, D] float32 (float64 if grad_output is), accumulated

  void check() const;
};

void embedding_forward(Stream& stream, const EmbeddingForward& args);
void embedding_backward(Stream& stream, const EmbeddingBackward& args);

}  // namespace gsa::kernels
