#include "kernels/matmul.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>

#include "tests/support/numeric.h"
#include "tests/support/scratch.h"

namespace gsa::kernels {
namespace {

using test::HostTensor;
using test::relative_error;

struct Case {
  DType dtype;
  Transpose transpose_a;
  Transpose transpose_b;
  Accumulate accumulate;
};

std::vector<double> definition(const HostTensor& a, const HostTensor& b, const HostTensor& c,
                               const Case& wanted, int64_t m, int64_t n, int64_t k) {
  std::vector<double> result(m * n);
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = wanted.accumulate == Accumulate::yes ? c.get(i * n + j) : 0;
      for (int64_t l = 0; l < k; ++l) {
        const int64_t at_a = wanted.transpose_a == Transpose::yes ? l * m + i : i * k + l;
        const int64_t at_b = wanted.transpose_b == Transpose::yes ? j * k + l : l * n + j;
        sum += a.get(at_a) * b.get(at_b);
      }
      result[i * n + j] = sum;
    }
  }
  return result;
}

class CpuMatmul
    : public testing::TestWithParam<std::tuple<DType, Transpose, Transpose, Accumulate>> {
 protected:
  void check(int64_t m, int64_t n, int64_t k, int64_t padding) {
    const auto [dtype, transpose_a, transpose_b, accumulate] = GetParam();
    const Case wanted{dtype, transpose_a, transpose_b, accumulate};
    const bool a_turned = transpose_a == Transpose::yes;
    const bool b_turned = transpose_b == Transpose::yes;
    const auto a =
        HostTensor::random(dtype, a_turned ? Shape{k, m} : Shape{m, k}, random_, -1, 1, padding);
    const auto b = HostTensor::random(dtype, b_turned ? Shape{n, k} : Shape{k, n}, random_, -1, 1,
                                      2 * padding);
    const auto c = HostTensor::random(dtype, {m, n}, random_, -1, 1, 3 * padding);
    const auto expected = definition(a, b, c, wanted, m, n, k);
    matmul(stream_, {.a = a,
                     .b = b,
                     .transpose_a = transpose_a,
                     .transpose_b = transpose_b,
                     .accumulate = accumulate,
                     .c = c});
    EXPECT_LT(relative_error(c.values(), expected),
              dtype == DType::float64 ? test::double_tolerance : test::float_tolerance)
        << m << " x " << n << " x " << k << ", padding " << padding;
    EXPECT_TRUE(c.gaps_are_untouched());
  }

  test::Random random_{13};
  test::TestStream stream_;
};

INSTANTIATE_TEST_SUITE_P(Kinds, CpuMatmul,
                         testing::Combine(testing::Values(DType::float32, DType::float64),
                                          testing::Values(Transpose::no, Transpose::yes),
                                          testing::Values(Transpose::no, Transpose::yes),
                                          testing::Values(Accumulate::no, Accumulate::yes)));

TEST_P(CpuMatmul, IsItsDefinition) {
  for (const int64_t padding : {0, 5}) {
    check(7, 5, 3, padding);
    check(33, 65, 47, padding);
    check(1, 19, 23, padding);  // a row: generation
    check(19, 1, 23, padding);
    check(1, 1, 1, padding);
  }
}

TEST(CpuMatmulResult, IsNotReadUnlessAccumulated) {
  test::TestStream stream;
  test::Random random(1);
  for (const int64_t m : {1, 3}) {
    const auto a = HostTensor::random(DType::float32, {m, 4}, random);
    const auto b = HostTensor::random(DType::float32, {5, 4}, random);
    const std::vector<double> nans(m * 5, std::numeric_limits<double>::quiet_NaN());
    const HostTensor c(DType::float32, {m, 5}, nans);
    matmul(stream, {.a = a, .b = b, .transpose_b = Transpose::yes, .c = c});
    for (const double value : c.values()) {
      EXPECT_TRUE(std::isfinite(value));
    }
  }
}

TEST(CpuMatmulResult, IsAddedToTheAddend) {
  test::TestStream stream;
  test::Random random(2);
  for (const int64_t m : {1, 3}) {
    const auto a = HostTensor::random(DType::float64, {m, 4}, random);
    const auto b = HostTensor::random(DType::float64, {5, 4}, random);
    const auto addend = HostTensor::random(DType::float64, {m, 5}, random, -1, 1, 3);
    const auto c = HostTensor::random(DType::float64, {m, 5}, random, -1, 1, 3);
    const auto expected = definition(
        a, b, addend, {DType::float64, Transpose::no, Transpose::yes, Accumulate::yes}, m, 5, 4);
    matmul(stream, {.a = a, .b = b, .transpose_b = Transpose::yes, .addend = addend, .c = c});
    EXPECT_LT(relative_error(c.values(), expected), test::double_tolerance);
    EXPECT_TRUE(c.gaps_are_untouched());
    matmul(stream, {.a = a, .b = b, .transpose_b = Transpose::yes, .addend = addend, .c = addend});
    EXPECT_EQ(addend.values(), c.values());
  }
}

TEST(CpuMatmulResult, TakesOnlyAnAddendThatLiesLikeIt) {
  test::TestStream stream;
  test::Random random(3);
  const auto a = HostTensor::random(DType::float32, {3, 4}, random);
  const auto b = HostTensor::random(DType::float32, {5, 4}, random);
  const auto c = HostTensor::random(DType::float32, {3, 5}, random);
  const auto strided = HostTensor::random(DType::float32, {3, 5}, random, -1, 1, 2);
  EXPECT_THROW(
      matmul(stream, {.a = a, .b = b, .transpose_b = Transpose::yes, .addend = strided, .c = c}),
      std::invalid_argument);
  EXPECT_THROW(matmul(stream, {.a = a, .b = b, .transpose_b = Transpose::yes, .addend = a, .c = c}),
               std::invalid_argument);
}

TEST(CpuMatmulResult, OfNoTermsIsZeroOrWhatItWas) {
  test::TestStream stream;
  std::array<float, 6> memory{};
  const ConstTensor a(memory.data(), DType::float32, Device::cpu, {2, 0});
  const ConstTensor b(memory.data(), DType::float32, Device::cpu, {0, 3});
  const HostTensor c(DType::float32, {2, 3}, {1, 2, 3, 4, 5, 6});
  matmul(stream, {.a = a, .b = b, .accumulate = Accumulate::yes, .c = c});
  EXPECT_EQ(c.values(), (std::vector<double>{1, 2, 3, 4, 5, 6}));
  matmul(stream, {.a = a, .b = b, .c = c});
  EXPECT_EQ(c.values(), std::vector<double>(6));
  const HostTensor addend(DType::float32, {2, 3}, {6, 5, 4, 3, 2, 1});
  matmul(stream, {.a = a, .b = b, .addend = addend, .c = c});
  EXPECT_EQ(c.values(), addend.values());
}

TEST(CpuMatmulResult, HasTheSameBitsEveryTime) {
  test::TestStream stream;
  test::Random random(2);
  const auto a = HostTensor::random(DType::float32, {150, 170}, random);
  const auto b = HostTensor::random(DType::float32, {130, 170}, random);
  std::vector<uint64_t> first;
  for (int repeat = 0; repeat < 3; ++repeat) {
    const HostTensor c(DType::float32, {150, 130});
    matmul(stream, {.a = a, .b = b, .transpose_b = Transpose::yes, .c = c});
    if (first.empty()) {
      first = c.bits();
    }
    EXPECT_EQ(c.bits(), first);
  }
}

TEST(CpuMatmulErrors, ShapesAndDtypesAreChecked) {
  test::TestStream stream;
  const HostTensor a(DType::float32, {2, 3});
  const HostTensor b(DType::float32, {3, 4});
  const HostTensor c(DType::float32, {2, 4});
  const HostTensor c64(DType::float64, {2, 4});
  EXPECT_THROW(matmul(stream, {.a = a, .b = a, .c = c}), std::invalid_argument);
  EXPECT_THROW(matmul(stream, {.a = a, .b = b, .transpose_b = Transpose::yes, .c = c}),
               std::invalid_argument);
  EXPECT_THROW(matmul(stream, {.a = a, .b = b, .c = c64}), std::invalid_argument);
  EXPECT_THROW(matmul(stream, {.a = a, .b = {}, .c = c}), std::invalid_argument);
  const HostTensor a16(DType::bfloat16, {2, 3});
  const HostTensor b16(DType::bfloat16, {3, 4});
  EXPECT_THROW(matmul(stream, {.a = a16, .b = b16, .c = c}), std::invalid_argument);
}

TEST(CpuMatmulFlops, CountMultipliesAndAdds) {
  const HostTensor a(DType::float32, {3, 2});
  const HostTensor b(DType::float32, {3, 4});
  const HostTensor c(DType::float32, {2, 4});
  const Matmul product{.a = a, .b = b, .transpose_a = Transpose::yes, .c = c};
  EXPECT_EQ(product.flops(), 2.0 * 2 * 3 * 4);
}

}  // namespace
}  // namespace gsa::kernels
