// The scrambling of the checksum, the same on every device. For the backends only.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define GSA_HOST_DEVICE __host__ __device__
#else
#define GSA_HOST_DEVICE
#endif

namespace gsa::kernels {

// SplitMix64's finalizer (Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
// 2014): a bijection in which every bit of the input reaches every bit of the output.
GSA_HOST_DEVICE inline uint64_t scrambled(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

// What an element of these bits adds to the checksum at this position.
GSA_HOST_DEVICE inline uint64_t checksum_term(uint64_t position, uint64_t bits) {
  constexpr uint64_t golden = 0x9e3779b97f4a7c15ULL;  // spreads positions over all 64 bits
  return scrambled(bits + scrambled((position + 1) * golden));
}

}  // namespace gsa::kernels

#undef GSA_HOST_DEVICE
