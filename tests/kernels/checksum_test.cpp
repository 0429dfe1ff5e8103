#include "kernels/checksum.h"

#include <gtest/gtest.h>

#include <cstring>

#include "tests/support/host_tensor.h"
#include "tests/support/scratch.h"

namespace gsa::kernels {
namespace {

using test::HostTensor;

uint64_t checksum_of(const ConstTensor& input, int64_t position = 0, uint64_t before = 0) {
  test::TestStream stream;
  const Buffer memory(Device::cpu, sizeof(uint64_t));
  const Tensor sum = memory.tensor(DType::int32, {2});
  std::memcpy(sum.data(), &before, sizeof(before));
  checksum(stream, {.input = input, .position = position, .sum = sum});
  uint64_t result = 0;
  std::memcpy(&result, sum.data(), sizeof(result));
  return result;
}

TEST(Checksum, DependsOnEveryBitAndEveryPlace) {
  test::Random random(3);
  for (const DType dtype : {DType::float64, DType::float32, DType::bfloat16, DType::int32}) {
    constexpr int64_t count = 37;
    HostTensor values(dtype, {count});
    auto* bytes = static_cast<uint8_t*>(values.view().data());
    for (size_t i = 0; i < values.view().bytes(); ++i) {
      bytes[i] = static_cast<uint8_t>(random.integer(256));
    }
    const uint64_t whole = checksum_of(values);
    for (size_t bit = 0; bit < values.view().bytes() * 8; ++bit) {
      bytes[bit / 8] ^= static_cast<uint8_t>(1U << (bit % 8));
      EXPECT_NE(checksum_of(values), whole) << name_of(dtype) << " bit " << bit;
      bytes[bit / 8] ^= static_cast<uint8_t>(1U << (bit % 8));
    }
    EXPECT_EQ(checksum_of(values), whole);
    std::swap_ranges(bytes, bytes + size_of(dtype), bytes + 5 * size_of(dtype));
    EXPECT_NE(checksum_of(values), whole) << "two that changed places";
  }
}

TEST(Checksum, AddsUpOverPartsAndIsTheSameForAnyNumberOfThreads) {
  test::Random random(4);
  constexpr int64_t count = 100'003;  // enough for several threads
  const HostTensor values = HostTensor::random(DType::float32, {count}, random);
  const uint64_t whole = checksum_of(values);
  for (const int threads : {1, 2, 5}) {
    const test::ThreadCount thread_count(threads);
    EXPECT_EQ(checksum_of(values), whole) << threads << " threads";
    constexpr int64_t cut = 33'333;
    const ConstTensor view = values;
    EXPECT_EQ(checksum_of(view.rows(cut, count), cut, checksum_of(view.rows(0, cut))), whole);
  }
}

TEST(Checksum, IsThisNumberOnEveryMachine) {
  const HostTensor values(DType::float32, {3}, {1, 2, 3});
  EXPECT_EQ(checksum_of(values), 5966632442511826411U);  // by another program
}

TEST(Checksum, ChecksItsArguments) {
  test::TestStream stream;
  const HostTensor values(DType::float32, {3}, {1, 2, 3});
  const HostTensor one(DType::int32, {1});
  const HostTensor real(DType::float32, {2});
  EXPECT_THROW(checksum(stream, {.input = values, .sum = one}), std::invalid_argument);
  EXPECT_THROW(checksum(stream, {.input = values, .sum = real}), std::invalid_argument);
  EXPECT_THROW(checksum(stream, {.input = {}, .sum = one}), std::invalid_argument);
}

}  // namespace
}  // namespace gsa::kernels
