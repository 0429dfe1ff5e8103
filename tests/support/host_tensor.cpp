#include "tests/support/host_tensor.h"

#include <cstring>
#include <stdexcept>

namespace gsa::test {
namespace {

constexpr unsigned char mark = 0xAB;

}  // namespace

uint64_t Random::bits() {
  // Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
  uint64_t z = state_ += 0x9E3779B97F4A7C15;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

double Random::uniform(double low, double high) {
  constexpr double step = 1.0 / (uint64_t{1} << 53);
  return low + (high - low) * double(bits() >> 11) * step;
}

int32_t Random::integer(int32_t end) {
  return static_cast<int32_t>(bits() % static_cast<uint64_t>(end));
}

std::vector<double> Random::uniform_values(int64_t count, double low, double high) {
  std::vector<double> values(static_cast<size_t>(count));
  for (double& value : values) {
    value = uniform(low, high);
  }
  return values;
}

HostTensor::HostTensor(DType dtype, Shape shape, int64_t padding) : padding_(padding) {
  if (padding != 0 && shape.rank() != 2) {
    throw std::invalid_argument("only rows of a rank-2 tensor can lie apart");
  }
  const int64_t elements = shape.count() + (padding == 0 ? 0 : padding * shape[0]);
  buffer_ = Buffer(Device::cpu, static_cast<size_t>(elements) * size_of(dtype));
  if (buffer_.bytes() > 0) {
    std::memset(buffer_.data(), mark, buffer_.bytes());
  }
  view_ = padding == 0 ? buffer_.tensor(dtype, shape)
                       : buffer_.tensor(dtype, {shape[0], shape[1] + padding}).columns(0, shape[1]);
}

HostTensor::HostTensor(DType dtype, Shape shape, const std::vector<double>& values, int64_t padding)
    : HostTensor(dtype, shape, padding) {
  if (static_cast<int64_t>(values.size()) != shape.count()) {
    throw std::invalid_argument("values do not fill a tensor " + shape.text());
  }
  for (size_t i = 0; i < values.size(); ++i) {
    set(static_cast<int64_t>(i), values[i]);
  }
}

HostTensor HostTensor::random(DType dtype, Shape shape, Random& random, double low, double high,
                              int64_t padding) {
  return {dtype, shape, random.uniform_values(shape.count(), low, high), padding};
}

int64_t HostTensor::offset_of(int64_t index) const {
  const int64_t row = view_.shape().row_count();
  return index / row * view_.row_stride() + index % row;
}

double HostTensor::get(int64_t index) const {
  const int64_t at = offset_of(index);
  switch (view_.dtype()) {
    case DType::float64:
      return view_.as<double>()[at];
    case DType::float32:
      return double(view_.as<float>()[at]);
    case DType::int32:
      return double(view_.as<int32_t>()[at]);
    default:
      throw std::invalid_argument("values of this dtype are read by their bits");
  }
}

void HostTensor::set(int64_t index, double value) {
  const int64_t at = offset_of(index);
  switch (view_.dtype()) {
    case DType::float64:
      view_.as<double>()[at] = value;
      return;
    case DType::float32:
      view_.as<float>()[at] = static_cast<float>(value);
      return;
    case DType::int32:
      view_.as<int32_t>()[at] = static_cast<int32_t>(value);
      return;
    default:
      throw std::invalid_argument("values of this dtype are written by their bits");
  }
}

std::vector<double> HostTensor::values() const {
  std::vector<double> values(static_cast<size_t>(view_.count()));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = get(static_cast<int64_t>(i));
  }
  return values;
}

std::vector<uint64_t> HostTensor::bits() const {
  std::vector<uint64_t> result(static_cast<size_t>(view_.count()));
  const size_t element = size_of(view_.dtype());
  for (size_t i = 0; i < result.size(); ++i) {
    const int64_t at = offset_of(static_cast<int64_t>(i));
    std::memcpy(&result[i], buffer_.data() + at * static_cast<int64_t>(element), element);
  }
  return result;
}

bool HostTensor::gaps_are_untouched() const {
  const auto element = static_cast<int64_t>(size_of(view_.dtype()));
  for (int64_t row = 0; padding_ > 0 && row < view_.dim(0); ++row) {
    const std::byte* gap = buffer_.data() + (row * view_.row_stride() + view_.dim(1)) * element;
    for (int64_t i = 0; i < padding_ * element; ++i) {
      if (gap[i] != std::byte{mark}) {
        return false;
      }
    }
  }
  return true;
}

}  // namespace gsa::test
