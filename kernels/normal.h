// Normally distributed numbers from a counter: how weights begin.
//
// Element i is a function of (key, i) alone, the same bits on every device:
//   bits = mix(key + i * golden);  output[i] = float(std * sqrt(-2 log u1) * cos(2 pi u2))
// in float64 until the last rounding, with u1, u2 from the two halves of the bits (Box and Muller)
// and `mix` the finalizer of SplitMix64 (Steele, Lea, Flood 2014).
#pragma once

#include "kernels/device.h"

namespace gsa::kernels {

// The finalizer of SplitMix64.
constexpr uint64_t mix_bits(uint64_t x) {
  x += 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

// Element `index` of the stream `key`, on the host: what `normal_fill` is measured by.
float normal_value(uint64_t key, int64_t index, double std);

// output[i] = element begin + i. Devices round logarithms and cosines of float64 differently in the
// last place; where that could show in float32, which is about once in ten million elements, CUDA
// lists i in `doubtful`, and the caller puts normal_value there.
struct NormalFill {
  uint64_t key = 0;
  int64_t begin = 0;
  double std = 1;
  Tensor
      doubtful;   // [1 + most] int32: how many (perhaps more than `most`), then which, in any order
  Tensor output;  // [n] float32, n < 2^31

  void check() const;
};

void normal_fill(Stream& stream, const NormalFill& args);

}  // namespace gsa::kernels
