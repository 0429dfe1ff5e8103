// A tensor in host memory that owns it, for tests: filled from doubles, read back as doubles.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <vector>

#include "kernels/device.h"

namespace gsa::test {

// A random sequence that is the same on every machine (SplitMix64).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t bits();
  double uniform(double low, double high);
  int32_t integer(int32_t end);  // in [0, end)
  std::vector<double> uniform_values(int64_t count, double low, double high);

 private:
  uint64_t state_;
};

// float32, float64 or int32 (and bfloat16 by its bits only). With `padding`, a rank-2 tensor's rows
// lie that many elements further apart, and the gap holds a mark that nothing may overwrite.
class HostTensor {
 public:
  HostTensor() = default;
  HostTensor(DType dtype, Shape shape, int64_t padding = 0);
  // The values, in row-major order, rounded to the dtype.
  HostTensor(DType dtype, Shape shape, const std::vector<double>& values, int64_t padding = 0);
  HostTensor(DType dtype, Shape shape, std::initializer_list<double> values)
      : HostTensor(dtype, shape, std::vector<double>(values)) {}
  static HostTensor random(DType dtype, Shape shape, Random& random, double low = -1,
                           double high = 1, int64_t padding = 0);

  const Tensor& view() const { return view_; }
  operator Tensor() const { return view_; }       // NOLINT(google-explicit-constructor)
  operator ConstTensor() const { return view_; }  // NOLINT(google-explicit-constructor)

  double get(int64_t index) const;  // by row-major index
  void set(int64_t index, double value);
  std::vector<double> values() const;
  // The elements' bits, to compare results exactly.
  std::vector<uint64_t> bits() const;
  bool gaps_are_untouched() const;

 private:
  int64_t offset_of(int64_t index) const;  // in elements, from the start of the buffer

  Buffer buffer_;
  Tensor view_;
  int64_t padding_ = 0;
};

}  // namespace gsa::test
