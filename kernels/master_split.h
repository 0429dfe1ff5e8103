// A float32 number as the bfloat16 nearest to it and 16 bits more, the same on every device. For
// the backends only.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define GSA_HOST_DEVICE __host__ __device__
#else
#define GSA_HOST_DEVICE
#endif

namespace gsa::kernels {

struct SplitNumber {
  uint16_t weight;  // bits of a bfloat16
  int16_t remainder;
};

// From the bits of a float32. Of two bfloat16 that are equally near it takes the one farther from
// zero, so that every remainder fits 16 bits. All NaN become one.
GSA_HOST_DEVICE inline SplitNumber split_number(uint32_t bits) {
  constexpr uint32_t infinity = 0x7f800000;
  constexpr uint32_t quiet_nan = 0x7fc00000;
  constexpr uint32_t half = 0x8000;
  const uint32_t number = (bits & 0x7fffffff) > infinity ? quiet_nan : bits;
  const uint32_t weight = (number + half) >> 16;
  return {uint16_t(weight), int16_t(uint16_t(number - (weight << 16)))};
}

GSA_HOST_DEVICE inline uint32_t join_number(SplitNumber number) {
  return (uint32_t(number.weight) << 16) + uint32_t(int32_t{number.remainder});
}

}  // namespace gsa::kernels

#undef GSA_HOST_DEVICE
