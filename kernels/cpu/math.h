// Scalar functions for the CPU's inner loops. The float versions have neither branches nor calls,
// so that the compiler vectorizes loops over them; the double versions are the library's.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

namespace gsa::kernels::cpu {

inline double fast_exp(double x) {
  return std::exp(x);
}

// e^x to 2e-7 of its value over the whole range; 0 for -infinity, infinity above 88.73, NaN for
// NaN. With n = round(x / ln 2), e^x = 2^n e^r, |r| <= ln 2 / 2, and e^r is its Taylor polynomial
// of degree 7 (remainder below 6e-9 of the value).
inline float fast_exp(float x) {
  constexpr float below_zero = -104.0F;    // e^x rounds to 0 here and below
  constexpr float above_infinity = 89.0F;  // and to infinity here and above
  constexpr float log2_e = 1.44269504F;
  constexpr float ln2_high = 0.693359375F;  // few bits: n * ln2_high is exact
  constexpr float ln2_low = -2.12194440e-4F;
  constexpr float rounder = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer
  constexpr int32_t rounder_bits = 0x4B400000;
  constexpr int32_t exponent_bias = 127;
  constexpr int mantissa_bits = 23;

  // Written so that NaN fails both comparisons and stays.
  x = x < below_zero ? below_zero : x;
  x = x > above_infinity ? above_infinity : x;
  const float shifted = x * log2_e + rounder;
  const int32_t n = std::bit_cast<int32_t>(shifted) - rounder_bits;
  const float n_float = shifted - rounder;
  const float r = (x - n_float * ln2_high) - n_float * ln2_low;
  float p = 1.0F / 5040;
  p = p * r + 1.0F / 720;
  p = p * r + 1.0F / 120;
  p = p * r + 1.0F / 24;
  p = p * r + 1.0F / 6;
  p = p * r + 0.5F;
  p = p * r + 1.0F;
  p = p * r + 1.0F;
  // 2^n in two factors: n = -150 and n = 128 are no exponents of a float, their halves are.
  const int32_t half = n >> 1;
  const auto power = [](int32_t exponent) {
    return std::bit_cast<float>(static_cast<uint32_t>(exponent + exponent_bias) << mantissa_bits);
  };
  return p * power(half) * power(n - half);
}

// 1 / (1 + e^-x).
template <typename T>
inline T sigmoid(T x) {
  return T(1) / (T(1) + fast_exp(-x));
}

// d/dx of swish(x) = x sigmoid(x), given the sigmoid.
template <typename T>
inline T swish_derivative(T x, T sigmoid_x) {
  return sigmoid_x * (T(1) + x * (T(1) - sigmoid_x));
}

// log(1 + e) for e in [0, 1].
inline double log1p_of_unit(double e) {
  return std::log1p(e);
}

// To 2e-7 of its value. log(1 + e) = 2 artanh(z) with z = e / (2 + e) <= 1/3: the series up to
// z^17 leaves 1e-10 of the value.
inline float log1p_of_unit(float e) {
  const float z = e / (2.0F + e);
  const float square = z * z;
  float p = 1.0F / 17;
  p = p * square + 1.0F / 15;
  p = p * square + 1.0F / 13;
  p = p * square + 1.0F / 11;
  p = p * square + 1.0F / 9;
  p = p * square + 1.0F / 7;
  p = p * square + 1.0F / 5;
  p = p * square + 1.0F / 3;
  p = p * square + 1.0F;
  return 2.0F * z * p;
}

// log(sigmoid(x)) = min(x, 0) - log(1 + e^-|x|).
template <typename T>
inline T log_sigmoid(T x) {
  const T magnitude = x < T(0) ? -x : x;
  const T negative_part = x < T(0) ? x : T(0);
  return negative_part - log1p_of_unit(fast_exp(-magnitude));
}

// The sum of term(0) ... term(count - 1): vector partial sums over short stretches, the stretches
// in double, so that rounding does not grow with the count. `term` may write to its own element.
template <typename T, typename Term>
inline double stable_sum(int64_t count, const Term& term) {
  constexpr int64_t stretch = 256;
  double total = 0;
  for (int64_t begin = 0; begin < count; begin += stretch) {
    const int64_t end = std::min(count, begin + stretch);
    T part = 0;
#pragma omp simd reduction(+ : part)
    for (int64_t i = begin; i < end; ++i) {
      part += term(i);
    }
    total += double(part);
  }
  return total;
}

}  // namespace gsa::kernels::cpu
