#include "kernels/normal.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/support/numeric.h"
#include "tests/support/scratch.h"

namespace gsa::kernels {
namespace {

constexpr uint64_t key = 0x123456789ABCDEFULL;
constexpr double deviation = 0.02;

TEST(CpuNormal, FillsWithTheStreamFromItsBeginOn) {
  test::TestStream stream;
  constexpr int64_t begin = 57;
  std::vector<float> numbers(1000);
  std::vector<int32_t> doubtful(3, -1);
  normal_fill(stream, {.key = key,
                       .begin = begin,
                       .std = deviation,
                       .doubtful = {doubtful.data(), DType::int32, Device::cpu, {3}},
                       .output = {numbers.data(), DType::float32, Device::cpu, {1000}}});
  EXPECT_EQ(doubtful[0], 0);
  for (int64_t i = 0; i < 1000; ++i) {
    EXPECT_EQ(numbers[static_cast<size_t>(i)], normal_value(key, begin + i, deviation));
  }
}

// The numbers of runs that exist must not change: these were written down once.
TEST(CpuNormal, IsWhatItWas) {
  EXPECT_EQ(mix_bits(0), 0xE220A8397B1DCDAFULL);
  EXPECT_FLOAT_EQ(normal_value(0, 0, 1.0), 0.89908882F);
  EXPECT_FLOAT_EQ(normal_value(key, 1000000, 1.0), -0.134186832F);
}

TEST(CpuNormal, ArgumentsAreChecked) {
  test::TestStream stream;
  std::vector<double> numbers(4);
  std::vector<int32_t> doubtful(1);
  const NormalFill wrong{.doubtful = {doubtful.data(), DType::int32, Device::cpu, {1}},
                         .output = {numbers.data(), DType::float64, Device::cpu, {4}}};
  EXPECT_THROW(normal_fill(stream, wrong), std::invalid_argument);
}

}  // namespace
}  // namespace gsa::kernels
