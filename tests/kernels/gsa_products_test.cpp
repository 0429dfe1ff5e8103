// The small products of the chunked form against plain loops, on sizes that fill no block.
#include <gtest/gtest.h>

#include "kernels/cpu/gsa_products.h"
#include "kernels/cpu/gsa_view.h"
#include "tests/support/numeric.h"

namespace gsa::kernels::cpu {
namespace {

using test::Random;

constexpr double tolerance = 1e-14;  // a sum of at most 40 products in float64

std::vector<double> plain_product(int64_t rows, int64_t columns, int64_t depth,
                                  const std::vector<double>& a, const std::vector<double>& b,
                                  std::vector<double> c) {
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      for (int64_t l = 0; l < depth; ++l) {
        c[i * columns + j] += a[i * depth + l] * b[l * columns + j];
      }
    }
  }
  return c;
}

TEST(GsaProducts, MatchPlainLoops) {
  Random random(1);
  for (int64_t rows : {1, 3, 4, 9, 16}) {
    for (int64_t columns : {1, 4, 7, 8, 13, 16, 37}) {
      for (int64_t depth : {0, 1, 16, 40}) {
        const auto a = random.uniform_values(rows * depth, -1, 1);
        const auto b = random.uniform_values(depth * columns, -1, 1);
        const auto start = random.uniform_values(rows * columns, -1, 1);
        std::vector<double> a_turned(a.size());
        transpose(rows, depth, a.data(), depth, a_turned.data(), rows);
        std::vector<double> c = start;
        product(rows, columns, depth, Left<double>{a.data(), depth, 1},
                Right<double>{b.data(), columns}, FromMatrix<double>{c.data(), columns},
                Result<double>{c.data(), columns});
        EXPECT_LE(test::relative_error(c, plain_product(rows, columns, depth, a, b, start)),
                  tolerance);
        product(rows, columns, depth, Left<double>{a_turned.data(), 1, rows},
                Right<double>{b.data(), columns}, FromZero{}, Result<double>{c.data(), columns});
        EXPECT_LE(test::relative_error(c, plain_product(rows, columns, depth, a, b,
                                                        std::vector<double>(start.size()))),
                  tolerance);
      }
    }
  }
}

TEST(GsaProducts, StartFromDecayedMatrices) {
  constexpr int64_t rows = 6;
  constexpr int64_t columns = 21;
  Random random(2);
  const auto start = random.uniform_values(rows * columns, -1, 1);
  const auto by_row = random.uniform_values(rows, 0, 1);
  const auto by_column = random.uniform_values(columns, 0, 1);
  std::vector<double> c(start.size());
  const Left<double> nothing{start.data(), 0, 0};
  product(rows, columns, 0, nothing, Right<double>{start.data(), 0},
          FromDecayedRows<double>{start.data(), columns, by_row.data()},
          Result<double>{c.data(), columns});
  for (int64_t i = 0; i < rows * columns; ++i) {
    EXPECT_EQ(c[i], start[i] * by_row[i / columns]);
  }
  product(rows, columns, 0, nothing, Right<double>{start.data(), 0},
          FromDecayedColumns<double>{start.data(), columns, by_column.data()},
          Result<double>{c.data(), columns});
  for (int64_t i = 0; i < rows * columns; ++i) {
    EXPECT_EQ(c[i], start[i] * by_column[i % columns]);
  }
}

TEST(GsaProducts, OneMinusExpIsExactNearZeroAndFarFromIt) {
  constexpr double float_rounding = 4e-7;  // a few units in the last place
  for (float x = -120; x < 0; x += 0.0137F) {
    const double expected = -std::expm1(double(x));
    EXPECT_NEAR(one_minus_exp(x), expected, float_rounding * expected) << x;
  }
  for (float x = -1; x < -1e-30F; x *= 0.7F) {
    const double expected = -std::expm1(double(x));
    EXPECT_NEAR(one_minus_exp(x), expected, float_rounding * expected) << x;
  }
  EXPECT_EQ(one_minus_exp(0.0F), 0.0F);
  EXPECT_EQ(one_minus_exp(-std::numeric_limits<float>::infinity()), 1.0F);
}

}  // namespace
}  // namespace gsa::kernels::cpu
