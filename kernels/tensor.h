// Views of row-major arrays in host or device memory. A view owns nothing: memory belongs to a
// Buffer (kernels/device.h) or to the arena of a step (trainer/model/tape.h).
//
// The first dimension may be strided (`row_stride` elements from one index to the next), so that a
// group of columns of a fused product is a tensor like any other; the others lie contiguously.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>

#include "kernels/dtype.h"

namespace gsa {

// Up to four dimensions.
class Shape {
 public:
  static constexpr int max_rank = 4;
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims);

  int rank() const { return rank_; }
  int64_t operator[](int i) const { return dims_[static_cast<size_t>(i)]; }
  int64_t count() const;      // elements
  int64_t row_count() const;  // elements of one index of the first dimension
  bool operator==(const Shape&) const = default;
  std::string text() const;  // "[2, 48, 4, 32]"

 private:
  std::array<int64_t, max_rank> dims_{};
  int rank_ = 0;
};

// A view for reading. Default-constructed it is "absent": optional arguments of operations.
class ConstTensor {
 public:
  ConstTensor() = default;
  ConstTensor(const void* data, DType dtype, Device device, Shape shape);

  explicit operator bool() const { return data_ != nullptr; }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  int64_t dim(int i) const { return shape_[i]; }
  int64_t count() const { return shape_.count(); }
  int64_t row_stride() const { return row_stride_; }
  bool is_contiguous() const;
  size_t bytes() const { return static_cast<size_t>(count()) * size_of(dtype_); }
  const void* data() const { return data_; }

  // The elements as T. Throws std::invalid_argument if the dtype is another.
  template <typename T>
  const T* as() const {
    require_dtype(DTypeOf<T>::value);
    return static_cast<const T*>(data_);
  }

  // Rows [begin, end) of the first dimension.
  ConstTensor rows(int64_t begin, int64_t end) const;
  // Columns [begin, end) of a rank-2 tensor; keeps the row stride.
  ConstTensor columns(int64_t begin, int64_t end) const;
  // Another shape over the same elements. A strided tensor keeps its first dimension.
  ConstTensor reshape(Shape shape) const;

 protected:
  void require_dtype(DType wanted) const;
  const std::byte* at_row(int64_t row) const;

  const void* data_ = nullptr;
  DType dtype_ = DType::float32;
  Device device_ = Device::cpu;
  Shape shape_;
  int64_t row_stride_ = 0;
};

// A view for writing; converts to ConstTensor.
class Tensor : public ConstTensor {
 public:
  Tensor() = default;
  Tensor(void* data, DType dtype, Device device, Shape shape)
      : ConstTensor(data, dtype, device, shape) {}

  void* data() const { return const_cast<void*>(data_); }
  template <typename T>
  T* as() const {
    require_dtype(DTypeOf<T>::value);
    return static_cast<T*>(data());
  }
  Tensor rows(int64_t begin, int64_t end) const { return Tensor(ConstTensor::rows(begin, end)); }
  Tensor columns(int64_t begin, int64_t end) const {
    return Tensor(ConstTensor::columns(begin, end));
  }
  Tensor reshape(Shape shape) const { return Tensor(ConstTensor::reshape(shape)); }

 private:
  explicit Tensor(const ConstTensor& view) : ConstTensor(view) {}
};

// Throws std::invalid_argument "WHAT must be SHAPE, is SHAPE" unless the shapes agree.
void require_shape(const ConstTensor& tensor, const Shape& shape, const char* what);

}  // namespace gsa
