// The arithmetic of an optimizer step on flat buffers: global norm, clipping, AdamW.
//
// Scalars that decide the update stay on the device (`ClipScale`), so that a step needs no round
// trip to the host.
#pragma once

#include <array>
#include <limits>

#include "kernels/device.h"

namespace gsa::kernels {

// output = inputs[0] + inputs[1] + ..., added in this order: gradients of several ranks.
struct Sum {
  static constexpr int max_inputs = 8;

  std::array<ConstTensor, max_inputs> inputs;  // [n] float32 | float64, the first `count` of them
  Tensor output;                               // [n], may be one of the inputs
  int count = 0;

  void check() const;
};

// sum[0] += sum of squares of the input, in float64 and in a fixed order.
struct SquaredNorm {
  ConstTensor input;  // [n] float32 | float64
  Tensor sum;         // [1] float64, accumulated

  void check() const;
};

// Turns the sums of a step into what AdamW multiplies gradients with. The gradients were made with
// the loss scaled by 1 / nominal_tokens; the labels that really counted were totals[1]:
//   mean = nominal_tokens / totals[1];  norm = mean * sqrt(squared_norm)
//   scale = mean * min(1, max_norm / norm);  NaN if norm or totals[0] is not finite, or if the mean
//   loss totals[0] / totals[1] is above loss_limit: AdamW then leaves everything as it is (the step
//   is skipped).
struct ClipScale {
  ConstTensor squared_norm;  // [1] float64
  ConstTensor totals;        // [2] float64: loss sum, labels that count
  double nominal_tokens = 1;
  double max_norm = 0;  // 0: no clipping
  double loss_limit = std::numeric_limits<double>::infinity();
  Tensor norm;   // [1] float64: the gradient's norm before clipping
  Tensor scale;  // [1] float64

  void check() const;
};

// AdamW with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101), bias-corrected:
//   g = scale * gradient;  m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2
//   master -= lr * (m / (1-b1^t) / (sqrt(v / (1-b2^t)) + eps) + decay * master);  weights = master
// The model may compute in bfloat16: masters then are float32 and lie in two parts (SplitMaster).
struct AdamW {
  // Elements of the buffers that weight decay leaves out (norms' weights), as [begin, end).
  struct Range {
    int64_t begin = 0;
    int64_t end = 0;
  };
  static constexpr int max_ranges = 8;

  ConstTensor gradient;  // [n] float32 | float64
  ConstTensor scale;     // [1] float64; not finite: nothing is changed
  double learning_rate = 0;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0;
  int64_t step = 1;  // t, from 1
  std::array<Range, max_ranges> without_decay{};
  Tensor master;         // [n] float32 | float64; absent with a remainder
  Tensor first_moment;   // [n]
  Tensor second_moment;  // [n]
  Tensor weights;        // [n] the master's dtype, or absent; with a remainder bfloat16
  Tensor remainder;      // [n] int16: masters are the weights and this; or absent

  void check() const;
};

// Float32 masters as bfloat16 weights and 16 bits more each: 4 bytes a parameter instead of 6. A
// weight is its master rounded to nearest (of two equally near, away from zero), the remainder what
// its bits lack:
//   bits(master) = (bits(weight) << 16) + remainder
// All NaN become one.
struct SplitMaster {
  ConstTensor master;  // [n] float32
  Tensor weights;      // [n] bfloat16
  Tensor remainder;    // [n] int16

  void check() const;
};

// The master again, bit by bit.
struct JoinMaster {
  ConstTensor weights;    // [n] bfloat16
  ConstTensor remainder;  // [n] int16
  Tensor master;          // [n] float32

  void check() const;
};

// output = input in another dtype, rounded to nearest even.
struct Convert {
  ConstTensor input;  // contiguous
  Tensor output;      // same count

  void check() const;
};

void sum(Stream& stream, const Sum& args);
void squared_norm(Stream& stream, const SquaredNorm& args);
void clip_scale(Stream& stream, const ClipScale& args);
void adamw(Stream& stream, const AdamW& args);
void split_master(Stream& stream, const SplitMaster& args);
void join_master(Stream& stream, const JoinMaster& args);
void convert(Stream& stream, const Convert& args);

}  // namespace gsa::kernels
