#include "kernels/optimizer.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "kernels/cpu/rounding.h"
#include "tests/support/numeric.h"
#include "tests/support/scratch.h"

namespace gsa::kernels {
namespace {

using test::HostTensor;
using test::relative_error;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

class CpuOptimizer : public testing::TestWithParam<DType> {
 protected:
  double tolerance() const {
    return GetParam() == DType::float64 ? test::double_tolerance : test::float_tolerance;
  }
  test::Random random_{41};
  test::TestStream stream_;
};

INSTANTIATE_TEST_SUITE_P(Dtypes, CpuOptimizer, testing::Values(DType::float32, DType::float64),
                         [](const auto& suite) { return name_of(suite.param); });

TEST_P(CpuOptimizer, SumAddsInTheOrderOfItsInputsAndMayReplaceOneOfThem) {
  constexpr int64_t count = 1001;
  const bool wide = GetParam() == DType::float64;
  const auto first = HostTensor::random(GetParam(), {count}, random_);
  const auto second = HostTensor::random(GetParam(), {count}, random_);
  const auto third = HostTensor::random(GetParam(), {count}, random_);
  std::vector<double> expected;
  for (int64_t i = 0; i < count; ++i) {
    const double all = first.get(i) + second.get(i) + third.get(i);
    expected.push_back(
        wide ? all : double(float(first.get(i)) + float(second.get(i)) + float(third.get(i))));
  }
  kernels::sum(stream_, {.inputs = {first, second, third}, .output = second, .count = 3});
  EXPECT_EQ(second.values(), expected);
  kernels::sum(stream_, {.inputs = {second}, .output = first, .count = 1});
  EXPECT_EQ(first.values(), expected);
}

TEST_P(CpuOptimizer, SquaredNormAccumulatesInFloat64WithTheSameBitsForAnyNumberOfThreads) {
  constexpr int64_t count = 200003;  // more than one partial sum
  const auto x = HostTensor::random(GetParam(), {count}, random_);
  double expected = 3;
  for (const double value : x.values()) {
    expected += value * value;
  }
  std::vector<uint64_t> first;
  for (const int threads : {1, 2, 5}) {
    const test::ThreadCount thread_count(threads);
    const HostTensor sum(DType::float64, {1}, {3});
    squared_norm(stream_, {.input = x, .sum = sum});
    EXPECT_NEAR(sum.get(0), expected, expected * 1e-12);  // another order of 200,000 terms
    if (first.empty()) {
      first = sum.bits();
    }
    EXPECT_EQ(sum.bits(), first) << threads << " threads";
  }
}

// The textbook update of one element, in double.
struct Adam {
  double master, first, second;
  void update(const AdamW& args, double scale, double gradient, bool decays) {
    const double g = scale * gradient;
    first = args.beta1 * first + (1 - args.beta1) * g;
    second = args.beta2 * second + (1 - args.beta2) * g * g;
    const double m = first / (1 - std::pow(args.beta1, double(args.step)));
    const double v = second / (1 - std::pow(args.beta2, double(args.step)));
    master -= args.learning_rate *
              (m / (std::sqrt(v) + args.epsilon) + (decays ? args.weight_decay * master : 0));
  }
};

TEST_P(CpuOptimizer, AdamWIsItsDefinitionOverSteps) {
  constexpr int64_t count = 1003;
  constexpr double scale = 0.3;
  const HostTensor scale_tensor(DType::float64, {1}, {scale});
  const auto master = HostTensor::random(GetParam(), {count}, random_);
  const HostTensor first(GetParam(), {count}, std::vector<double>(count));
  const HostTensor second(GetParam(), {count}, std::vector<double>(count));
  const HostTensor weights(GetParam(), {count});
  std::vector<Adam> expected(count);
  for (int64_t i = 0; i < count; ++i) {
    expected[i] = {master.get(i), 0, 0};
  }
  const auto decays = [](int64_t i) { return !(i < 10 || (i >= 500 && i < 777) || i >= 1000); };
  for (int64_t step = 1; step <= 4; ++step) {
    const auto gradient = HostTensor::random(GetParam(), {count}, random_);
    const AdamW args{.gradient = gradient,
                     .scale = scale_tensor,
                     .learning_rate = 0.05,
                     .weight_decay = 0.1,
                     .step = step,
                     // In no order, adjoining, and empty ones between.
                     .without_decay = {{{500, 600}, {0, 10}, {7, 7}, {600, 777}, {1000, 1003}}},
                     .master = master,
                     .first_moment = first,
                     .second_moment = second,
                     .weights = weights};
    adamw(stream_, args);
    for (int64_t i = 0; i < count; ++i) {
      expected[i].update(args, scale, gradient.get(i), decays(i));
    }
  }
  std::vector<double> wanted(count);
  for (int64_t i = 0; i < count; ++i) {
    wanted[i] = expected[i].master;
  }
  EXPECT_LT(relative_error(master.values(), wanted), tolerance());
  EXPECT_EQ(weights.bits(), master.bits());
}

TEST_P(CpuOptimizer, AdamWNeedsNoWeightsBesideTheMasters) {
  constexpr int64_t count = 77;
  const HostTensor scale(DType::float64, {1}, {1});
  const auto gradient = HostTensor::random(GetParam(), {count}, random_);
  const auto master = HostTensor::random(GetParam(), {count}, random_);
  const HostTensor first(GetParam(), {count}, std::vector<double>(count));
  const HostTensor second(GetParam(), {count}, std::vector<double>(count));
  const auto before = master.values();
  adamw(stream_, {.gradient = gradient,
                  .scale = scale,
                  .learning_rate = 0.01,
                  .master = master,
                  .first_moment = first,
                  .second_moment = second});
  EXPECT_NE(master.values(), before);
}

// Numbers of all kinds: on both sides of a middle between two bfloat16 and on it, the largest and
// the smallest, infinite ones.
std::vector<float> odd_numbers() {
  std::vector<float> numbers = {0.0F, -0.0F, INFINITY, -INFINITY};
  for (const uint32_t upper : {0x0000U, 0x0001U, 0x007fU, 0x0080U, 0x3f80U, 0x3f81U, 0x7f7eU,
                               0x7f7fU, 0x8000U, 0xbf80U, 0xff7fU}) {
    for (const uint32_t lower : {0U, 1U, 0x7fffU, 0x8000U, 0x8001U, 0xffffU}) {
      numbers.push_back(std::bit_cast<float>(upper << 16 | lower));
    }
  }
  return numbers;
}

TEST(MastersInTwoParts, AreTheSameBitsAgainAndTheirWeightsTheNearest) {
  test::TestStream stream;
  std::vector<float> numbers = odd_numbers();
  const auto count = static_cast<int64_t>(numbers.size());
  const HostTensor weights(DType::bfloat16, {count});
  std::vector<int16_t> remainders(numbers.size());
  std::vector<float> joined(numbers.size());
  const Tensor remainder(remainders.data(), DType::int16, Device::cpu, {count});
  const auto floats = [&](std::vector<float>& values) {
    return Tensor(values.data(), DType::float32, Device::cpu, {count});
  };
  split_master(stream, {.master = floats(numbers), .weights = weights, .remainder = remainder});
  join_master(stream, {.weights = weights, .remainder = remainder, .master = floats(joined)});
  const auto bits = weights.bits();
  for (size_t i = 0; i < numbers.size(); ++i) {
    EXPECT_EQ(std::bit_cast<uint32_t>(joined[i]), std::bit_cast<uint32_t>(numbers[i]));
    const auto number = std::bit_cast<uint32_t>(numbers[i]);
    const bool in_the_middle = (number & 0xffff) == 0x8000;
    const uint32_t away_from_zero = (number >> 16) + 1;
    EXPECT_EQ(bits[i], in_the_middle ? away_from_zero : cpu::to_bfloat16(numbers[i]).bits);
  }
  numbers.assign(numbers.size(), -NAN);
  split_master(stream, {.master = floats(numbers), .weights = weights, .remainder = remainder});
  join_master(stream, {.weights = weights, .remainder = remainder, .master = floats(joined)});
  EXPECT_TRUE(std::isnan(joined.front()));
  EXPECT_TRUE(std::isnan(cpu::widened({static_cast<uint16_t>(weights.bits().front())})));
}

TEST(MastersInTwoParts, AreUpdatedLikeWholeOnes) {
  constexpr int64_t count = 1003;
  test::TestStream stream;
  test::Random random(43);
  const HostTensor scale(DType::float64, {1}, {0.3});
  const auto whole = HostTensor::random(DType::float32, {count}, random);
  const HostTensor weights(DType::bfloat16, {count});
  std::vector<int16_t> remainders(count);
  const Tensor remainder(remainders.data(), DType::int16, Device::cpu, {count});
  const HostTensor joined(DType::float32, {count});
  split_master(stream, {.master = whole, .weights = weights, .remainder = remainder});
  std::vector<HostTensor> moments;
  for (int i = 0; i < 4; ++i) {
    moments.emplace_back(DType::float32, Shape{count}, std::vector<double>(count));
  }
  for (int64_t step = 1; step <= 3; ++step) {
    const auto gradient = HostTensor::random(DType::float32, {count}, random);
    AdamW args{.gradient = gradient,
               .scale = scale,
               .learning_rate = 0.05,
               .weight_decay = 0.1,
               .step = step,
               .without_decay = {{{500, 600}}},
               .master = whole,
               .first_moment = moments[0],
               .second_moment = moments[1]};
    adamw(stream, args);
    args.master = {};
    args.first_moment = moments[2];
    args.second_moment = moments[3];
    args.weights = weights;
    args.remainder = remainder;
    adamw(stream, args);
    join_master(stream, {.weights = weights, .remainder = remainder, .master = joined});
    EXPECT_LT(relative_error(joined.values(), whole.values()), test::float_tolerance) << step;
    // From the same masters on: a rounding that compilers may place differently stays one.
    split_master(stream, {.master = whole, .weights = weights, .remainder = remainder});
  }
}

TEST_P(CpuOptimizer, AdamWSkipsTheStepWhenTheScaleIsNotFinite) {
  for (const double bad : {nan, infinity, -infinity}) {
    const HostTensor scale(DType::float64, {1}, {bad});
    const HostTensor gradient(GetParam(), {3}, {nan, 1, infinity});
    const HostTensor master(GetParam(), {3}, {1, 2, 3});
    const HostTensor first(GetParam(), {3}, {4, 5, 6});
    const HostTensor second(GetParam(), {3}, {7, 8, 9});
    const HostTensor weights(GetParam(), {3}, {10, 11, 12});
    adamw(stream_, {.gradient = gradient,
                    .scale = scale,
                    .learning_rate = 1,
                    .weight_decay = 1,
                    .master = master,
                    .first_moment = first,
                    .second_moment = second,
                    .weights = weights});
    EXPECT_EQ(master.values(), (std::vector<double>{1, 2, 3}));
    EXPECT_EQ(first.values(), (std::vector<double>{4, 5, 6}));
    EXPECT_EQ(second.values(), (std::vector<double>{7, 8, 9}));
    EXPECT_EQ(weights.values(), (std::vector<double>{10, 11, 12}));
  }
}

TEST_P(CpuOptimizer, AdamWHasTheSameBitsForAnyNumberOfThreads) {
  constexpr int64_t count = 50001;
  const HostTensor scale(DType::float64, {1}, {0.7});
  const auto gradient = HostTensor::random(GetParam(), {count}, random_);
  const auto start = HostTensor::random(GetParam(), {count}, random_);
  std::vector<uint64_t> expected;
  for (const int threads : {1, 2, 3}) {
    const test::ThreadCount thread_count(threads);
    const HostTensor master(GetParam(), {count}, start.values());
    const HostTensor first(GetParam(), {count}, std::vector<double>(count, 0.1));
    const HostTensor second(GetParam(), {count}, std::vector<double>(count, 0.2));
    adamw(stream_, {.gradient = gradient,
                    .scale = scale,
                    .learning_rate = 0.01,
                    .weight_decay = 0.1,
                    .step = 5,
                    .without_decay = {{{20000, 30000}}},
                    .master = master,
                    .first_moment = first,
                    .second_moment = second});
    if (expected.empty()) {
      expected = master.bits();
    }
    EXPECT_EQ(master.bits(), expected) << threads << " threads";
  }
}

struct Clip {
  double norm;
  double scale;
};

Clip clip(double squared_norm, double loss, double counted, double max_norm,
          double loss_limit = infinity) {
  test::TestStream stream;
  const HostTensor squares(DType::float64, {1}, {squared_norm});
  const HostTensor totals(DType::float64, {2}, {loss, counted});
  const HostTensor norm(DType::float64, {1});
  const HostTensor scale(DType::float64, {1});
  clip_scale(stream, {.squared_norm = squares,
                      .totals = totals,
                      .nominal_tokens = 100,
                      .max_norm = max_norm,
                      .loss_limit = loss_limit,
                      .norm = norm,
                      .scale = scale});
  return {norm.get(0), scale.get(0)};
}

TEST(CpuClipScale, CorrectsTheMeanAndClips) {
  const Clip under = clip(4, 1, 50, 5);  // twice as large as if all labels had counted
  EXPECT_DOUBLE_EQ(under.norm, 4);
  EXPECT_DOUBLE_EQ(under.scale, 2);
  const Clip over = clip(4, 1, 50, 1);
  EXPECT_DOUBLE_EQ(over.norm, 4);
  EXPECT_DOUBLE_EQ(over.scale, 0.5);
  const Clip unlimited = clip(4, 1, 50, 0);
  EXPECT_DOUBLE_EQ(unlimited.norm, 4);
  EXPECT_DOUBLE_EQ(unlimited.scale, 2);
  const Clip zero = clip(0, 1, 100, 1);
  EXPECT_EQ(zero.norm, 0);
  EXPECT_EQ(zero.scale, 1);
}

TEST(CpuClipScale, IsNanWhenTheStepMustBeSkipped) {
  EXPECT_TRUE(std::isnan(clip(nan, 1, 100, 1).scale));
  EXPECT_TRUE(std::isnan(clip(infinity, 1, 100, 1).scale));
  EXPECT_EQ(clip(infinity, 1, 100, 1).norm, infinity);
  EXPECT_TRUE(std::isnan(clip(4, nan, 100, 1).scale));
  EXPECT_TRUE(std::isnan(clip(4, infinity, 100, 0).scale));
  EXPECT_TRUE(std::isnan(clip(4, 1, 0, 0).scale));  // no label counted
  EXPECT_TRUE(std::isnan(clip(0, 0, 0, 1).scale));
}

TEST(CpuClipScale, IsNanWhereTheMeanLossIsAboveItsLimit) {
  EXPECT_EQ(clip(4, 150, 50, 0, 3).scale, 2);
  EXPECT_TRUE(std::isnan(clip(4, std::nextafter(150, 151), 50, 0, 3).scale));
  EXPECT_EQ(clip(4, 151, 50, 0, 3).norm, 4);  // told all the same
}

TEST(CpuConvert, RoundsToNearestEvenBetweenAllDtypes) {
  test::TestStream stream;
  test::Random random(6);
  constexpr int64_t count = 1001;
  const auto wide = HostTensor::random(DType::float64, {count}, random, -100, 100);
  const HostTensor single(DType::float32, {count});
  const HostTensor half(DType::bfloat16, {count});
  const HostTensor half_of_single(DType::bfloat16, {count});
  const HostTensor back(DType::float32, {count});
  const HostTensor wide_again(DType::float64, {count});
  const HostTensor half_again(DType::bfloat16, {count});
  convert(stream, {.input = wide, .output = single});
  convert(stream, {.input = wide, .output = half});
  convert(stream, {.input = single, .output = half_of_single});
  convert(stream, {.input = half, .output = back});
  convert(stream, {.input = half, .output = wide_again});
  convert(stream, {.input = back, .output = half_again});
  const auto bits = half.bits();
  constexpr double half_place = 1.0 / 256;  // half of a bfloat16's last place, of its value
  for (int64_t i = 0; i < count; ++i) {
    EXPECT_EQ(single.get(i), double(float(wide.get(i))));
    EXPECT_EQ(bits[i], cpu::to_bfloat16(wide.get(i)).bits);
    EXPECT_EQ(half_of_single.bits()[i], cpu::to_bfloat16(float(wide.get(i))).bits);
    EXPECT_EQ(back.get(i), wide_again.get(i));
    EXPECT_NEAR(back.get(i), wide.get(i), half_place * std::abs(wide.get(i)));
  }
  EXPECT_EQ(half_again.bits(), bits);
}

TEST(CpuOptimizerErrors, ShapesDtypesAndStepAreChecked) {
  test::TestStream stream;
  const HostTensor x(DType::float32, {3}, {1, 2, 3});
  const HostTensor x64(DType::float64, {3}, {1, 2, 3});
  const HostTensor few(DType::float32, {2}, {1, 2});
  const HostTensor one(DType::float64, {1}, {1});
  const HostTensor one32(DType::float32, {1}, {1});
  const AdamW good{.gradient = x,
                   .scale = one,
                   .master = x,
                   .first_moment = x,
                   .second_moment = x,
                   .weights = x};
  const auto expect_refused = [&](const auto& change) {
    AdamW args = good;
    change(args);
    EXPECT_THROW(adamw(stream, args), std::invalid_argument);
  };
  expect_refused([&](AdamW& args) { args.step = 0; });
  expect_refused([&](AdamW& args) { args.master = x64; });
  expect_refused([&](AdamW& args) { args.second_moment = few; });
  expect_refused([&](AdamW& args) { args.weights = few; });
  expect_refused([&](AdamW& args) { args.scale = one32; });
  EXPECT_THROW(squared_norm(stream, {.input = x, .sum = one32}), std::invalid_argument);
  for (const int count : {0, kernels::Sum::max_inputs + 1}) {
    EXPECT_THROW(kernels::sum(stream, {.inputs = {x}, .output = x, .count = count}),
                 std::invalid_argument);
  }
  for (const HostTensor* other : {&x64, &few}) {
    EXPECT_THROW(kernels::sum(stream, {.inputs = {x, *other}, .output = x, .count = 2}),
                 std::invalid_argument);
  }
  EXPECT_THROW(convert(stream, {.input = x, .output = few}), std::invalid_argument);
  EXPECT_THROW(
      clip_scale(
          stream,
          {.squared_norm = one, .totals = few, .nominal_tokens = 1, .norm = one, .scale = one}),
      std::invalid_argument);
  const HostTensor totals(DType::float64, {2}, {1, 1});
  EXPECT_THROW(
      clip_scale(
          stream,
          {.squared_norm = one, .totals = totals, .nominal_tokens = 0, .norm = one, .scale = one}),
      std::invalid_argument);
}

}  // namespace
}  // namespace gsa::kernels
