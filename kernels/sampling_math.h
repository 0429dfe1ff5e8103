// The arithmetic of sampling, shared by the CPU and CUDA: the same bits on both. Every step is an
// exact integer operation or one IEEE operation that no compiler may contract.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define GSA_ANYWHERE __host__ __device__ inline
#else
#define GSA_ANYWHERE inline
#endif

namespace gsa::kernels::sampling {

// The largest weight: 2^30. A vocabulary of 2^32 tokens sums to less than 2^63.
inline constexpr int weight_bits = 30;

GSA_ANYWHERE uint32_t bits_of(float x) {
#ifdef __CUDA_ARCH__
  return __float_as_uint(x);
#else
  return std::bit_cast<uint32_t>(x);
#endif
}

GSA_ANYWHERE float float_of(uint32_t bits) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(bits);
#else
  return std::bit_cast<float>(bits);
#endif
}

GSA_ANYWHERE float fused(float a, float b, float c) {
#ifdef __CUDA_ARCH__
  return __fmaf_rn(a, b, c);
#else
  return std::fma(a, b, c);
#endif
}

GSA_ANYWHERE float difference(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fsub_rn(a, b);
#else
  return a - b;
#endif
}

// Orders like the logit: a larger number for a larger logit. NaN comes last: it is never drawn
// while there is a number.
GSA_ANYWHERE uint32_t order_of(float logit) {
  if (logit != logit) {
    return 0;
  }
  const uint32_t bits = bits_of(logit == 0.0F ? 0.0F : logit);  // -0 as 0
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

// The logit of an order.
GSA_ANYWHERE float logit_of(uint32_t order) {
  return float_of((order & 0x80000000U) != 0 ? order & 0x7FFFFFFFU : ~order);
}

// 2^30 * exp((logit - largest) * inverse_temperature), rounded down: what is 2^30 times less
// probable than the best token is never drawn. `exponent_scale` is log2(e) / temperature.
GSA_ANYWHERE uint64_t weight_of(float logit, float largest, float exponent_scale) {
  if (logit == largest) {
    return uint64_t{1} << weight_bits;
  }
  // 2^x = 2^whole * 2^fraction, fraction in [0, 1]; below 2^-31 nothing is left. NaN compares
  // false.
  const float x = fused(difference(logit, largest), exponent_scale, 0.0F);
  if (!(x > -31.0F)) {
    return 0;
  }
  const int whole = -int(1.0F - x);
  const float fraction = difference(x, float(whole));
  // The square of Taylor's series of 2^(fraction / 2), to 2e-7 of its value.
  constexpr float ln2 = 0.693147182F;
  const float y = fused(fraction, 0.5F * ln2, 0.0F);
  float root = fused(y, 1.0F / 5040, 1.0F / 720);
  root = fused(root, y, 1.0F / 120);
  root = fused(root, y, 1.0F / 24);
  root = fused(root, y, 1.0F / 6);
  root = fused(root, y, 0.5F);
  root = fused(root, y, 1.0F);
  root = fused(root, y, 1.0F);
  const float power = fused(root, root, 0.0F);  // in [1, 4)
  // 24 significant bits as an integer, shifted to their place.
  constexpr int kept_bits = 22;
  const auto digits = uint64_t(fused(power, float(1 << kept_bits), 0.0F));
  const int shift = weight_bits - kept_bits + whole;
  return shift >= 0 ? digits << shift : digits >> -shift;
}

// The scale of weight_of: log2(e) / temperature.
GSA_ANYWHERE float exponent_scale(double temperature) {
  constexpr double log2_e = 1.4426950408889634;
  return float(log2_e / temperature);
}

// The weight that a share of the total in (0, 1] is, at least 1.
GSA_ANYWHERE uint64_t share_of(uint64_t total, double share) {
  const auto part = uint64_t(double(total) * share);
  return part > 1 ? part : 1;
}

// 64 random bits of a draw (SplitMix64's finalizer over a counter, a round each for what it is made
// of).
GSA_ANYWHERE uint64_t mixed(uint64_t x) {
  x += 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}
GSA_ANYWHERE uint64_t random_bits(uint64_t seed, uint64_t sequence, uint64_t position) {
  return mixed(mixed(mixed(seed) ^ sequence) ^ position);
}

// floor(bits / 2^64 * total): a number in [0, total), total below 2^63.
GSA_ANYWHERE uint64_t scaled(uint64_t bits, uint64_t total) {
#ifdef __CUDA_ARCH__
  return __umul64hi(bits, total);
#else
  return static_cast<uint64_t>((static_cast<unsigned __int128>(bits) * total) >> 64);
#endif
}

}  // namespace gsa::kernels::sampling

#undef GSA_ANYWHERE
