#include "tests/kernels/cuda/device_tensor.h"

#include <cstring>

#include "kernels/cpu/rounding.h"

namespace gsa::test {
namespace {

constexpr auto mark = std::byte{0xff};  // NaN in every floating-point type

void put(std::byte* at, DType dtype, double value) {
  if (dtype == DType::bfloat16) {
    const bfloat16_t element = kernels::cpu::to_bfloat16(value);
    std::memcpy(at, &element, sizeof(element));
  } else {
    const auto element = static_cast<float>(value);
    std::memcpy(at, &element, sizeof(element));
  }
}

double get(const std::byte* at, DType dtype) {
  if (dtype == DType::bfloat16) {
    bfloat16_t element{};
    std::memcpy(&element, at, sizeof(element));
    return kernels::cpu::widened(element);
  }
  float element = 0;
  std::memcpy(&element, at, sizeof(element));
  return element;
}

}  // namespace

Buffer marked_buffer(Stream& stream, size_t bytes) {
  Buffer buffer(Device::cuda, bytes);
  const std::vector<std::byte> marks(bytes, mark);
  const Shape shape{static_cast<int64_t>(bytes)};
  copy(stream, ConstTensor(marks.data(), DType::byte, Device::cpu, shape),
       buffer.tensor(DType::byte, shape));
  stream.synchronize();
  return buffer;
}

std::byte* DeviceScratch::lend(size_t bytes) {
  loans_.push_back(marked_buffer(stream_, bytes));
  return loans_.back().data();
}

double rounded_to(DType dtype, double value) {
  if (dtype == DType::bfloat16) {
    return kernels::cpu::widened(kernels::cpu::to_bfloat16(value));
  }
  return dtype == DType::float32 ? static_cast<float>(value) : value;
}

DeviceTensor::DeviceTensor(Stream& stream, DType dtype, Shape shape, int64_t padding,
                           const std::vector<double>& values)
    : shape_(shape),
      columns_(shape.row_count()),
      stride_(columns_ + padding),
      dtype_(dtype),
      buffer_(marked_buffer(stream, size_t(shape[0] * stride_) * size_of(dtype))) {
  std::vector<std::byte> host(buffer_.bytes(), mark);
  for (size_t i = 0; i < values.size(); ++i) {
    put(host.data() + offset_of(static_cast<int64_t>(i)), dtype, values[i]);
  }
  copy(stream, ConstTensor(host.data(), DType::byte, Device::cpu, bytes_shape()), bytes_view());
  stream.synchronize();
}

Tensor DeviceTensor::view() const {
  return buffer_.tensor(dtype_, {shape_[0], stride_}).columns(0, columns_).reshape(shape_);
}

std::vector<double> DeviceTensor::values(Stream& stream, bool& gaps_are_untouched) const {
  std::vector<std::byte> host(buffer_.bytes());
  copy(stream, bytes_view(), Tensor(host.data(), DType::byte, Device::cpu, bytes_shape()));
  stream.synchronize();
  std::vector<double> values;
  for (int64_t i = 0; i < shape_.count(); ++i) {
    values.push_back(get(host.data() + offset_of(i), dtype_));
  }
  for (int64_t row = 0; row < shape_[0]; ++row) {
    for (int64_t column = columns_; column < stride_; ++column) {
      const size_t at = size_t(row * stride_ + column) * size_of(dtype_);
      gaps_are_untouched = gaps_are_untouched && host[at] == mark;
    }
  }
  return values;
}

}  // namespace gsa::test
