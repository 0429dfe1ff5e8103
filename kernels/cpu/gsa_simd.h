// Vectors of the processor, for the loops that the compiler does not keep in registers by itself.
#pragma once

#include <cstdint>
#include <cstring>

namespace gsa::kernels::cpu {

#ifdef __AVX__
inline constexpr int vector_bytes = 32;
#else
inline constexpr int vector_bytes = 16;
#endif

template <typename T>
struct VectorOf {
  typedef T type __attribute__((vector_size(vector_bytes)));
};

// A vector, or a single value, from anywhere.
template <typename Value, typename T>
inline Value load(const T* from) {
  Value value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

// The sum of a vector's lanes, by halves.
template <typename T, typename Vector>
inline T sum_of_lanes(const Vector& vector) {
  constexpr int lanes = sizeof(Vector) / sizeof(T);
  if constexpr (lanes == 8) {
    return ((vector[0] + vector[4]) + (vector[2] + vector[6])) +
           ((vector[1] + vector[5]) + (vector[3] + vector[7]));
  } else if constexpr (lanes == 4) {
    return (vector[0] + vector[2]) + (vector[1] + vector[3]);
  } else {
    static_assert(lanes == 2);
    return vector[0] + vector[1];
  }
}

}  // namespace gsa::kernels::cpu
