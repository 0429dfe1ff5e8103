// The CPU's own exponential and its relatives, over their whole range.
#include "kernels/cpu/math.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "kernels/cpu/rounding.h"

namespace gsa::kernels::cpu {
namespace {

// About one and a half units of the last place of a float.
constexpr double exp_tolerance = 2e-7;
constexpr double smallest_normal = std::numeric_limits<float>::min();
constexpr double infinity = std::numeric_limits<double>::infinity();

// Floats from `low` up, in steps of that many units of the last place.
template <typename Visit>
void visit_floats(float low, float high, uint32_t step, const Visit& visit) {
  const auto go = [&](float from, float to) {  // same sign, from nearer to zero
    const auto end = std::bit_cast<uint32_t>(to);
    for (auto bits = std::bit_cast<uint32_t>(from); bits <= end; bits += step) {
      visit(std::bit_cast<float>(bits));
    }
  };
  go(0.0F, high);
  go(-0.0F, low);
}

TEST(CpuMath, ExpIsAccurateOverTheWholeRange) {
  double worst = 0;
  visit_floats(-110.0F, 95.0F, 4099, [&](float x) {
    const double expected = std::exp(double(x));
    const auto value = double(fast_exp(x));
    if (expected > double(std::numeric_limits<float>::max())) {
      EXPECT_EQ(value, infinity) << x;
    } else if (expected < smallest_normal) {
      EXPECT_NEAR(value, expected, 2 * double(std::numeric_limits<float>::denorm_min())) << x;
    } else {
      worst = std::max(worst, std::abs(value - expected) / expected);
    }
  });
  EXPECT_LT(worst, exp_tolerance);
}

TEST(CpuMath, ExpOfSpecialValues) {
  constexpr float float_infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(fast_exp(0.0F), 1.0F);
  EXPECT_EQ(fast_exp(-0.0F), 1.0F);
  EXPECT_EQ(fast_exp(-float_infinity), 0.0F);
  EXPECT_EQ(fast_exp(-1e30F), 0.0F);
  EXPECT_EQ(fast_exp(float_infinity), float_infinity);
  EXPECT_EQ(fast_exp(1e30F), float_infinity);
  EXPECT_TRUE(std::isnan(fast_exp(std::numeric_limits<float>::quiet_NaN())));
  EXPECT_TRUE(std::isnan(fast_exp(-std::numeric_limits<float>::quiet_NaN())));
}

TEST(CpuMath, LogSigmoidIsAccurateOverTheWholeRange) {
  double worst = 0;
  visit_floats(-1e4F, 80.0F, 4099, [&](float x) {
    const double magnitude = std::abs(double(x));
    const double expected = std::min(double(x), 0.0) - std::log1p(std::exp(-magnitude));
    worst = std::max(worst, std::abs(double(log_sigmoid(x)) - expected) / -expected);
  });
  EXPECT_LT(worst, 2 * exp_tolerance);
  EXPECT_EQ(log_sigmoid(1e30F), 0.0F);
  EXPECT_EQ(log_sigmoid(-1e30F), -1e30F);
}

TEST(CpuMath, SigmoidSaturates) {
  EXPECT_EQ(sigmoid(0.0F), 0.5F);
  EXPECT_EQ(sigmoid(1e30F), 1.0F);
  EXPECT_EQ(sigmoid(-1e30F), 0.0F);
  EXPECT_EQ(sigmoid(-1e300), 0.0);
}

TEST(CpuMath, StableSumDoesNotLoseSmallTerms) {
  // In plain float32, 2^24 + 1 = 2^24: a running sum of ones would stop there.
  constexpr int64_t count = (int64_t{1} << 24) + 4321;
  EXPECT_EQ(stable_sum<float>(count, [](int64_t /*i*/) { return 1.0F; }), double(count));
  EXPECT_EQ(stable_sum<float>(0, [](int64_t /*i*/) { return 1.0F; }), 0.0);
}

TEST(CpuMath, BFloat16RoundsToNearestEven) {
  const auto rounded = [](auto value) { return double(widened(to_bfloat16(value))); };
  EXPECT_EQ(rounded(1.0F), 1.0);
  EXPECT_EQ(rounded(-0.0F), 0.0);
  EXPECT_TRUE(std::signbit(rounded(-0.0F)));
  constexpr double place = 1.0 / 128;                         // of a bfloat16 at 1
  EXPECT_EQ(rounded(float(1 + place / 2)), 1.0);              // tie, to even
  EXPECT_EQ(rounded(float(1 + 1.5 * place)), 1 + 2 * place);  // tie, to even
  EXPECT_EQ(rounded(float(1 + 0.51 * place)), 1 + place);
  // Just above a tie by less than a float can hold: rounding twice would give 1.
  EXPECT_EQ(rounded(1 + place / 2 + 1e-12), 1 + place);
  EXPECT_EQ(rounded(-(1 + place / 2 + 1e-12)), -(1 + place));
  EXPECT_EQ(rounded(1 + place / 2 - 1e-12), 1.0);
  EXPECT_EQ(rounded(1 + 1.5 * place - 1e-12), 1 + place);
  EXPECT_EQ(rounded(3.4e38F), infinity);
  EXPECT_EQ(rounded(-1e300), -infinity);
  EXPECT_EQ(rounded(infinity), infinity);
  EXPECT_EQ(rounded(1e-300), 0.0);
  EXPECT_TRUE(std::isnan(rounded(std::numeric_limits<float>::quiet_NaN())));
  EXPECT_TRUE(std::isnan(rounded(std::bit_cast<float>(0x7F800001))));  // NaN in the low bits alone
  EXPECT_TRUE(std::isnan(rounded(std::numeric_limits<double>::quiet_NaN())));
}

}  // namespace
}  // namespace gsa::kernels::cpu
