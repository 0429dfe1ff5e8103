// The choice of the next token from logits, on the device.
//
// Weights w_i = exp((logit_i - largest) / temperature) are integers (kernels/sampling_math.h), so
// that sums have no order and every device draws the same tokens from the same logits. The random
// number of a draw is a function of (seed, sequence, position) alone: a text does not depend on the
// batch that it is written in.
#pragma once

#include "kernels/device.h"

namespace gsa::kernels {

struct SamplingOptions {
  double temperature = 1.0;  // 0: always the most probable token, of equals the first
  int64_t top_k = 0;         // only the k most probable tokens; 0: all
  double top_p = 1.0;        // of these, only the fewest that have this share of probability
  uint64_t seed = 0;

  void check() const;  // throws std::invalid_argument for options out of range
};

// tokens[i] drawn from softmax(logits[i] / temperature), cut to top_k, then to top_p; what is as
// probable as the last token kept is kept too. positions[i] counts on by one.
struct SampleTokens {
  ConstTensor logits;  // [B, W] float32, rows may be strided
  SamplingOptions options;
  int64_t first_sequence = 0;  // number of the first row's sequence
  Tensor positions;            // [B] int32
  Tensor tokens;               // [B] int32
  // [R, B] int32, or absent: row positions[i] mod R takes tokens[i] too, the last R draws. On CUDA
  // it may lie in pinned memory, for the host to read behind an event.
  Tensor history;

  void check() const;
};

void sample_tokens(Stream& stream, const SampleTokens& args);

}  // namespace gsa::kernels
