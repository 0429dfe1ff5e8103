// Conversions between the stored number types, rounding to nearest even.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "kernels/dtype.h"

namespace gsa::kernels::cpu {

inline float widened(bfloat16_t value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16);
}

// NaN stays NaN (quiet, its sign kept); what lies beyond the largest bfloat16 becomes infinity.
inline bfloat16_t to_bfloat16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  constexpr uint32_t infinity = 0x7F800000;
  constexpr uint32_t quiet = 0x0040;
  // Half of the last place kept, less one where that place is even: ties go to even.
  const uint32_t rounded = bits + 0x7FFF + ((bits >> 16) & 1);
  const bool is_nan = (bits & 0x7FFFFFFF) > infinity;
  return {static_cast<uint16_t>(is_nan ? (bits >> 16) | quiet : rounded >> 16)};
}

// By way of a float rounded to odd, so that the second rounding sees what the first one dropped.
inline bfloat16_t to_bfloat16(double value) {
  const auto nearest = static_cast<float>(value);
  const double error = double(nearest) - value;
  if (!(error != 0) || std::isinf(nearest)) {
    return to_bfloat16(nearest);
  }
  const bool away_from_zero = (error > 0) == (value > 0);
  const uint32_t toward_zero = std::bit_cast<uint32_t>(nearest) - (away_from_zero ? 1 : 0);
  return to_bfloat16(std::bit_cast<float>(toward_zero | 1));
}

// The value as a To.
template <typename To, typename From>
inline To rounded_to(From value) {
  if constexpr (std::is_same_v<From, bfloat16_t> && std::is_same_v<To, bfloat16_t>) {
    return value;
  } else if constexpr (std::is_same_v<From, bfloat16_t>) {
    return To(widened(value));
  } else if constexpr (std::is_same_v<To, bfloat16_t>) {
    return to_bfloat16(value);
  } else {
    return static_cast<To>(value);
  }
}

}  // namespace gsa::kernels::cpu
