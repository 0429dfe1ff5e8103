// Softmax cross-entropy over rows of logits, and the sums that a step reports.
#pragma once

#include "kernels/device.h"

namespace gsa::kernels {

// Tokens with this label do not count: no loss, no gradient.
inline constexpr int32_t ignored_label = -100;

// losses[n] = log(sum_w exp(logits[n, w])) - logits[n, labels[n]], in float32 (float64 for float64
// logits). With a gradient, logits are overwritten by gradient_scale * (softmax - onehot).
struct CrossEntropy {
  ConstTensor labels;         // [N] int32, each in [0, W) or ignored_label
  double gradient_scale = 0;  // 0: logits are left as they are
  Tensor logits;              // [N, W]
  Tensor losses;              // [N] float32 | float64; 0 where ignored

  void check() const;
};

// totals[0] += sum of losses, totals[1] += number of labels that count; a fixed order of summation.
struct SumLosses {
  ConstTensor losses;  // [N] float32 | float64
  ConstTensor labels;  // [N] int32
  Tensor totals;       // [2] float64, accumulated

  void check() const;
};

void cross_entropy(Stream& stream, const CrossEntropy& args);
void sum_losses(Stream& stream, const SumLosses& args);

}  // namespace gsa::kernels
