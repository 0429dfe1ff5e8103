// Tensors and scratch memory on the GPU, full of marks where nothing was written.
#pragma once

#include <cstddef>
#include <vector>

#include "kernels/device.h"
#include "kernels/tensor.h"

namespace gsa::test {

// Device memory for operations, each loan a buffer of its own, exactly as large as asked and full
// of NaN, so that the memory checker sees accesses past its end and the results what was not
// written.
class DeviceScratch : public ScratchMemory {
 public:
  explicit DeviceScratch(Stream& stream) : stream_(stream) {}
  std::byte* lend(size_t bytes) override;
  void give_back(size_t /*bytes*/) override {
    stream_.synchronize();
    loans_.pop_back();
  }

 private:
  Stream& stream_;
  std::vector<Buffer> loans_;
};

// Device memory of this size, full of marks.
Buffer marked_buffer(Stream& stream, size_t bytes);

// The number that is left of `value` in this type.
double rounded_to(DType dtype, double value);

// A tensor in device memory whose rows may lie apart, with marks between them.
class DeviceTensor {
 public:
  DeviceTensor(Stream& stream, DType dtype, Shape shape, int64_t padding,
               const std::vector<double>& values = {});

  Tensor view() const;
  // The elements, and whether the gaps are as they were.
  std::vector<double> values(Stream& stream, bool& gaps_are_untouched) const;

 private:
  size_t offset_of(int64_t index) const {
    return size_t(index / columns_ * stride_ + index % columns_) * size_of(dtype_);
  }
  Shape bytes_shape() const { return {static_cast<int64_t>(buffer_.bytes())}; }
  Tensor bytes_view() const { return buffer_.tensor(DType::byte, bytes_shape()); }

  Shape shape_;
  int64_t columns_;
  int64_t stride_;
  DType dtype_;
  Buffer buffer_;
};

}  // namespace gsa::test
