#include "kernels/cross_entropy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/support/numeric.h"
#include "tests/support/scratch.h"

namespace gsa::kernels {
namespace {

using test::HostTensor;
using test::relative_error;

constexpr int64_t rows = 23;
constexpr int32_t width = 777;
constexpr int64_t padding = 3;
constexpr double scale = 0.125;
constexpr int64_t ignored_row = 4;

struct Expected {
  std::vector<double> losses;
  std::vector<double> gradient;
};

// The definition in double, with the largest logit taken out.
Expected definition(const HostTensor& logits, const HostTensor& labels) {
  const int64_t n_rows = logits.view().dim(0);
  const int64_t n_columns = logits.view().dim(1);
  Expected expected{std::vector<double>(n_rows), std::vector<double>(n_rows * n_columns)};
  for (int64_t n = 0; n < n_rows; ++n) {
    const auto label = static_cast<int64_t>(labels.get(n));
    if (label == ignored_label) {
      continue;
    }
    double top = logits.get(n * n_columns);
    for (int64_t w = 1; w < n_columns; ++w) {
      top = std::max(top, logits.get(n * n_columns + w));
    }
    double sum = 0;
    for (int64_t w = 0; w < n_columns; ++w) {
      sum += std::exp(logits.get(n * n_columns + w) - top);
    }
    expected.losses[n] = std::log(sum) + top - logits.get(n * n_columns + label);
    for (int64_t w = 0; w < n_columns; ++w) {
      const double p = std::exp(logits.get(n * n_columns + w) - top) / sum;
      expected.gradient[n * n_columns + w] = scale * (p - (w == label ? 1 : 0));
    }
  }
  return expected;
}

HostTensor some_labels(test::Random& random) {
  HostTensor labels(DType::int32, {rows});
  for (int64_t n = 0; n < rows; ++n) {
    labels.set(n, random.integer(width));
  }
  labels.set(ignored_row, ignored_label);
  labels.set(0, 0);
  labels.set(1, width - 1);
  return labels;
}

class CpuCrossEntropy : public testing::TestWithParam<DType> {
 protected:
  double tolerance() const {
    return GetParam() == DType::float64 ? test::double_tolerance : test::float_tolerance;
  }
  test::Random random_{31};
  test::TestStream stream_;
  HostTensor labels_ = some_labels(random_);
  HostTensor logits_ = HostTensor::random(GetParam(), {rows, width}, random_, -30, 30, padding);
  HostTensor losses_{GetParam(), {rows}};
};

INSTANTIATE_TEST_SUITE_P(Dtypes, CpuCrossEntropy, testing::Values(DType::float32, DType::float64),
                         [](const auto& suite) { return name_of(suite.param); });

TEST_P(CpuCrossEntropy, WithoutGradientLeavesTheLogits) {
  const auto expected = definition(logits_, labels_);
  const auto before = logits_.bits();
  cross_entropy(stream_,
                {.labels = labels_, .gradient_scale = 0, .logits = logits_, .losses = losses_});
  EXPECT_LT(relative_error(losses_.values(), expected.losses), tolerance());
  EXPECT_EQ(logits_.bits(), before);
  EXPECT_EQ(losses_.get(ignored_row), 0);
}

TEST_P(CpuCrossEntropy, GradientOverwritesTheLogits) {
  const auto expected = definition(logits_, labels_);
  cross_entropy(stream_,
                {.labels = labels_, .gradient_scale = scale, .logits = logits_, .losses = losses_});
  EXPECT_LT(relative_error(losses_.values(), expected.losses), tolerance());
  EXPECT_LT(relative_error(logits_.values(), expected.gradient), tolerance());
  EXPECT_TRUE(logits_.gaps_are_untouched());
  for (int64_t w = 0; w < width; ++w) {
    EXPECT_EQ(logits_.get(ignored_row * width + w), 0);
  }
}

TEST_P(CpuCrossEntropy, ExtremeLogitsStayFinite) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const HostTensor logits(GetParam(), {3, 3}, {1e30, -1e30, 0, -infinity, 5, -infinity, 7, 7, 7});
  const HostTensor labels(DType::int32, {3}, {0, 1, 2});
  const HostTensor losses(GetParam(), {3});
  cross_entropy(stream_,
                {.labels = labels, .gradient_scale = 1, .logits = logits, .losses = losses});
  EXPECT_EQ(losses.get(0), 0);
  EXPECT_EQ(losses.get(1), 0);
  EXPECT_NEAR(losses.get(2), std::log(3.0), test::float_tolerance);
  for (const double value : logits.values()) {
    EXPECT_TRUE(std::isfinite(value));
  }
}

TEST_P(CpuCrossEntropy, ANanAmongTheLogitsShowsInTheLoss) {
  logits_.set(2 * width + 100, std::numeric_limits<double>::quiet_NaN());
  cross_entropy(stream_,
                {.labels = labels_, .gradient_scale = 0, .logits = logits_, .losses = losses_});
  EXPECT_TRUE(std::isnan(losses_.get(2)));
  EXPECT_TRUE(std::isfinite(losses_.get(3)));
}

TEST_P(CpuCrossEntropy, SameBitsForAnyNumberOfThreads) {
  std::vector<uint64_t> first;
  const auto values = logits_.values();
  for (const int threads : {1, 2, 5}) {
    const test::ThreadCount thread_count(threads);
    const HostTensor logits(GetParam(), {rows, width}, values);
    cross_entropy(
        stream_, {.labels = labels_, .gradient_scale = scale, .logits = logits, .losses = losses_});
    if (first.empty()) {
      first = logits.bits();
    }
    EXPECT_EQ(logits.bits(), first) << threads << " threads";
  }
}

TEST_P(CpuCrossEntropy, SumsLossesAndCountsLabels) {
  const auto losses = HostTensor::random(GetParam(), {rows}, random_, 0, 10);
  const HostTensor totals(DType::float64, {2}, {100, 7});
  double sum = 100;
  for (const double loss : losses.values()) {
    sum += loss;
  }
  sum_losses(stream_, {.losses = losses, .labels = labels_, .totals = totals});
  EXPECT_NEAR(totals.get(0), sum, sum * test::double_tolerance);
  EXPECT_EQ(totals.get(1), 7 + rows - 1);
}

TEST(CpuCrossEntropy64, GradientMatchesCentralDifferences) {
  constexpr auto dtype = DType::float64;
  test::Random random(8);
  test::TestStream stream;
  auto logits = HostTensor::random(dtype, {3, 6}, random, -2, 2);
  const HostTensor labels(DType::int32, {3}, {5, ignored_label, 2});
  const HostTensor losses(dtype, {3});
  const HostTensor gradient(dtype, {3, 6}, logits.values());
  cross_entropy(stream,
                {.labels = labels, .gradient_scale = scale, .logits = gradient, .losses = losses});
  const auto loss = [&] {
    cross_entropy(stream,
                  {.labels = labels, .gradient_scale = 0, .logits = logits, .losses = losses});
    return scale * (losses.get(0) + losses.get(1) + losses.get(2));
  };
  EXPECT_LT(relative_error(gradient.values(), central_differences(logits, loss)),
            test::central_difference_tolerance);
}

TEST(CpuCrossEntropyErrors, LabelsOutsideTheVocabularyAreNamed) {
  test::TestStream stream;
  const HostTensor logits(DType::float32, {3, 4}, std::vector<double>(12, 2.5));
  const HostTensor losses(DType::float32, {3});
  for (const int32_t bad : {4, -1, -99, -101}) {
    const HostTensor labels(DType::int32, {3}, {0, double(bad), 1});
    try {
      cross_entropy(stream,
                    {.labels = labels, .gradient_scale = 1, .logits = logits, .losses = losses});
      FAIL() << "label " << bad << " was accepted";
    } catch (const std::out_of_range& error) {
      EXPECT_EQ(std::string(error.what()),
                "label " + std::to_string(bad) +
                    " at position 1 is outside the vocabulary of 4: was the data made with another "
                    "tokenizer?");
    }
  }
  EXPECT_EQ(logits.values(), std::vector<double>(12, 2.5));  // nothing was written
}

TEST(CpuCrossEntropyErrors, ShapesAndDtypesAreChecked) {
  test::TestStream stream;
  const HostTensor logits(DType::float32, {3, 4});
  const HostTensor half(DType::bfloat16, {3, 4});
  const HostTensor labels(DType::int32, {3}, {0, 1, 2});
  const HostTensor few(DType::int32, {2}, {0, 1});
  const HostTensor losses(DType::float32, {3});
  const HostTensor losses64(DType::float64, {3});
  EXPECT_THROW(cross_entropy(stream, {.labels = few, .logits = logits, .losses = losses}),
               std::invalid_argument);
  EXPECT_THROW(cross_entropy(stream, {.labels = labels, .logits = logits, .losses = losses64}),
               std::invalid_argument);
  EXPECT_THROW(cross_entropy(stream, {.labels = labels, .logits = half, .losses = losses}),
               std::invalid_argument);
  EXPECT_THROW(sum_losses(stream, {.losses = losses, .labels = few, .totals = losses64}),
               std::invalid_argument);
  EXPECT_THROW(sum_losses(stream, {.losses = losses, .labels = labels, .totals = {}}),
               std::invalid_argument);
}

}  // namespace
}  // namespace gsa::kernels
