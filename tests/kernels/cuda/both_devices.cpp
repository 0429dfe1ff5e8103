#include "tests/kernels/cuda/both_devices.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstring>

#include "tests/support/numeric.h"

namespace gsa::test {
namespace {

constexpr size_t scratch_bytes = size_t{64} << 20;
// Its start is full of NaN, so that reading what was not written shows; the products' workspace,
// which is larger, is the library's own affair.
constexpr size_t marked_bytes = size_t{8} << 20;
constexpr auto mark = std::byte{0xff};  // NaN in every floating-point type

// Lends parts of one buffer.
class BenchScratch : public ScratchMemory {
 public:
  explicit BenchScratch(const Buffer& buffer) : buffer_(buffer) {}
  std::byte* lend(size_t bytes) override {
    std::byte* const data = buffer_.data() + used_;
    used_ += rounded(bytes);
    if (used_ > buffer_.bytes()) {
      throw std::logic_error("the test's scratch memory is too small");
    }
    return data;
  }
  void give_back(size_t bytes) override { used_ -= rounded(bytes); }

 private:
  static size_t rounded(size_t bytes) {
    constexpr size_t alignment = 256;
    return (bytes + alignment - 1) / alignment * alignment;
  }
  const Buffer& buffer_;
  size_t used_ = 0;
};

uint16_t bfloat16_bits(double value) {
  const auto bits = std::bit_cast<uint32_t>(float(value));
  const uint32_t half = 0x7fff + ((bits >> 16) & 1);  // to nearest, ties to even
  return uint16_t((bits + half) >> 16);
}

double bfloat16_value(uint16_t bits) {
  return double(std::bit_cast<float>(uint32_t(bits) << 16));
}

void put(std::byte* at, DType dtype, double value) {
  const auto write = [&](auto element) { std::memcpy(at, &element, sizeof(element)); };
  switch (dtype) {
    case DType::float64:
      return write(value);
    case DType::float32:
      return write(float(value));
    case DType::bfloat16:
      return write(bfloat16_bits(value));
    case DType::int32:
      return write(int32_t(value));
    case DType::int16:
      return write(int16_t(value));
    case DType::byte:
      return write(uint8_t(value));
  }
}

template <typename T>
T read(const std::byte* at) {
  T value{};
  std::memcpy(&value, at, sizeof(T));
  return value;
}

double get(const std::byte* at, DType dtype) {
  switch (dtype) {
    case DType::float64:
      return read<double>(at);
    case DType::float32:
      return double(read<float>(at));
    case DType::bfloat16:
      return bfloat16_value(read<uint16_t>(at));
    case DType::int32:
      return read<int32_t>(at);
    case DType::int16:
      return read<int16_t>(at);
    case DType::byte:
      return read<uint8_t>(at);
  }
  return 0;
}

}  // namespace

Bench::Bench(Device device, DType dtype, bool rounded)
    : device_(device),
      dtype_(dtype),
      rounded_(rounded),
      scratch_buffer_(device, scratch_bytes),
      scratch_(std::make_unique<BenchScratch>(scratch_buffer_)),
      stream_(device) {
  const Buffer marks(Device::cpu, marked_bytes);
  std::memset(marks.data(), int(mark), marked_bytes);
  const Shape shape{int64_t(marked_bytes)};
  copy(stream_, marks.tensor(DType::byte, shape), scratch_buffer_.tensor(DType::byte, shape));
  stream_.synchronize();
  stream_.set_scratch(scratch_.get());
}

Tensor Bench::make(DType dtype, Shape shape, Layout layout, const std::vector<double>& values) {
  const bool matrix = shape.rank() == 2;
  const int64_t rows = matrix ? shape[0] : 1;
  const int64_t columns = matrix ? shape[1] : shape.count();
  const int64_t stride = columns + layout.padding + layout.offset;
  const size_t element = size_of(dtype);
  const size_t bytes = size_t(rows * stride) * element;
  const Buffer host(Device::cpu, bytes);
  std::memset(host.data(), int(mark), bytes);
  for (size_t i = 0; i < values.size(); ++i) {
    const int64_t at = int64_t(i) / columns * stride + layout.offset + int64_t(i) % columns;
    put(host.data() + size_t(at) * element, dtype, values[i]);
  }
  Storage storage{Buffer(device_, bytes), {}, {}, layout};
  storage.whole = storage.buffer.tensor(dtype, {rows, stride});
  copy(stream_, host.tensor(dtype, {rows, stride}), storage.whole);
  stream_.synchronize();
  storage.view = storage.whole.columns(layout.offset, layout.offset + columns);
  if (!matrix) {
    storage.view = storage.view.reshape(shape);
  }
  storage_.push_back(std::move(storage));
  return storage_.back().view;
}

Tensor Bench::values(DType dtype, Shape shape, const std::vector<double>& values, Layout layout) {
  return make(dtype, shape, layout, values);
}

Tensor Bench::random_float(Shape shape, double low, double high, Layout layout) {
  std::vector<double> values = random_.uniform_values(shape.count(), low, high);
  if (rounded_) {
    for (double& value : values) {
      value = bfloat16_value(bfloat16_bits(value));
    }
  }
  return make(DType::float32, shape, layout, values);
}

Tensor Bench::random(Shape shape, double low, double high, Layout layout) {
  std::vector<double> values = random_.uniform_values(shape.count(), low, high);
  if (rounded_) {
    for (double& value : values) {
      value = bfloat16_value(bfloat16_bits(value));
    }
  }
  return make(dtype_, shape, layout, values);
}

Tensor Bench::integers(const std::vector<int32_t>& values) {
  return make(DType::int32, {int64_t(values.size())}, {}, {values.begin(), values.end()});
}

std::vector<int32_t> Bench::random_integers(int64_t count, int32_t end) {
  std::vector<int32_t> values(size_t(count), 0);
  for (int32_t& value : values) {
    value = random_.integer(end);
  }
  return values;
}

Tensor Bench::output(Shape shape, Layout layout) {
  return output(dtype_, shape, layout);
}

Tensor Bench::output(DType dtype, Shape shape, Layout layout) {
  return make(dtype, shape, layout, {});
}

void Bench::keep(const std::string& name, const Tensor& tensor) {
  for (const Storage& storage : storage_) {
    if (storage.view.data() != tensor.data()) {
      continue;
    }
    const size_t element = size_of(tensor.dtype());
    const Buffer host(Device::cpu, storage.whole.bytes());
    copy(stream_, storage.whole, host.tensor(tensor.dtype(), storage.whole.shape()));
    stream_.synchronize();
    Result result{name, {}, {}};
    const int64_t stride = storage.whole.dim(1);
    const int64_t last = stride - storage.layout.padding;
    bool marked = true;
    for (int64_t i = 0; i < storage.whole.count(); ++i) {
      const std::byte* at = host.data() + size_t(i) * element;
      if (i % stride >= storage.layout.offset && i % stride < last) {
        result.values.push_back(get(at, tensor.dtype()));
        result.bits.insert(result.bits.end(), at, at + element);
      } else {
        marked = marked && std::all_of(at, at + element, [](std::byte b) { return b == mark; });
      }
    }
    EXPECT_TRUE(marked) << name << " was written between its rows";
    results_.push_back(std::move(result));
    return;
  }
  throw std::logic_error("the test keeps a tensor that it did not make: " + name);
}

void expect_as_on_cpu(const std::string& name, DType dtype, double tolerance, const Body& body) {
  const bool rounded = dtype == DType::bfloat16;
  Bench expected(Device::cpu, DType::float32, rounded);
  Bench first(Device::cuda, dtype, rounded);
  Bench second(Device::cuda, dtype, rounded);
  for (Bench* bench : {&expected, &first, &second}) {
    body(*bench);
  }
  double worst = 0;
  for (size_t i = 0; i < expected.results().size(); ++i) {
    const Bench::Result& got = first.results()[i];
    const double error = relative_error(got.values, expected.results()[i].values);
    EXPECT_LE(error, tolerance) << name << ": " << got.name << " in " << name_of(dtype);
    EXPECT_EQ(got.bits, second.results()[i].bits)
        << name << ": " << got.name << " in " << name_of(dtype) << " differs from run to run";
    worst = std::max(worst, error);
  }
  std::printf("  %-64s %-9s %.1e\n", name.c_str(), name_of(dtype), worst);
}

void expect_as_on_cpu(const std::string& name, DType dtype, const Body& body) {
  expect_as_on_cpu(name, dtype,
                   dtype == DType::bfloat16 ? cuda_bfloat16_tolerance : cuda_float_tolerance, body);
}

void expect_as_on_cpu(const std::string& name, const Body& body) {
  expect_as_on_cpu(name, DType::float32, body);
  expect_as_on_cpu(name, DType::bfloat16, body);
}

}  // namespace gsa::test
