// A checksum of a tensor's bits, to compare copies of it without moving them.
#pragma once

#include "kernels/device.h"

namespace gsa::kernels {

// sum += mix(position + i, bits of input[i]) over all elements i, in 64-bit integers modulo 2^64:
// the order of addition does not matter, so that every device and number of threads gives the same.
// `mix` scrambles both (SplitMix64's finalizer): one bit that changed, or two elements that changed
// places, change the sum for all but one case in 2^64.
struct Checksum {
  ConstTensor input;     // contiguous, any dtype
  int64_t position = 0;  // of the first element in what is summed over several calls
  Tensor sum;            // [2] int32, aligned to 8 bytes: the low and the high word; accumulated

  void check() const;
};

void checksum(Stream& stream, const Checksum& args);

}  // namespace gsa::kernels
