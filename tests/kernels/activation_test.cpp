#include "kernels/activation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/support/numeric.h"
#include "tests/support/scratch.h"

namespace gsa::kernels {
namespace {

using test::HostTensor;
using test::relative_error;

constexpr double normalizer = 8;

double swish(double x) {
  return x / (1 + std::exp(-x));
}

double log_gate(double x) {
  return (std::min(x, 0.0) - std::log1p(std::exp(-std::abs(x)))) / normalizer;
}

std::vector<double> mapped(const HostTensor& x, double (*function)(double)) {
  std::vector<double> values = x.values();
  for (double& value : values) {
    value = function(value);
  }
  return values;
}

double tolerance(DType dtype) {
  return dtype == DType::float64 ? test::double_tolerance : test::float_tolerance;
}

class CpuActivation : public testing::TestWithParam<DType> {
 protected:
  static constexpr int64_t rows = 37;
  static constexpr int64_t columns = 53;
  static constexpr int64_t padding = 11;
  const Shape shape_{rows, columns};
  test::Random random_{7};
  test::TestStream stream_;
};

INSTANTIATE_TEST_SUITE_P(Dtypes, CpuActivation, testing::Values(DType::float32, DType::float64),
                         [](const auto& suite) { return name_of(suite.param); });

TEST_P(CpuActivation, SwishIsItsDefinitionOnStridedRows) {
  const auto x = HostTensor::random(GetParam(), shape_, random_, -20, 20, padding);
  const HostTensor y(GetParam(), shape_, padding + 2);
  swish_forward(stream_, {.input = x, .output = y});
  EXPECT_LT(relative_error(y.values(), mapped(x, swish)), tolerance(GetParam()));
  EXPECT_TRUE(y.gaps_are_untouched());
}

TEST_P(CpuActivation, SwishIsAccurateElementByElementOverTheWholeRange) {
  constexpr int64_t count = 20001;
  HostTensor x(GetParam(), {1, count});
  for (int64_t i = 0; i < count; ++i) {
    x.set(i, -87 + 0.01 * double(i));  // below, float32 has no normal value for it
  }
  const HostTensor y(GetParam(), {1, count});
  swish_forward(stream_, {.input = x, .output = y});
  for (int64_t i = 0; i < count; ++i) {
    const double expected = swish(x.get(i));
    EXPECT_NEAR(y.get(i), expected, tolerance(GetParam()) * std::abs(expected)) << x.get(i);
  }
}

TEST_P(CpuActivation, LogGateIsItsDefinitionOnStridedRows) {
  const auto x = HostTensor::random(GetParam(), shape_, random_, -120, 120, padding);
  const HostTensor y(GetParam(), shape_, padding + 2);
  log_gate_forward(stream_, {.input = x, .normalizer = normalizer, .log_alpha = y});
  const auto expected = mapped(x, log_gate);
  for (size_t i = 0; i < expected.size(); ++i) {  // each on its own: they span many magnitudes
    const double value = y.get(static_cast<int64_t>(i));
    // Beyond 87 e^-x is no normal float any more.
    constexpr double denormal = 1e-38;
    EXPECT_NEAR(value, expected[i], tolerance(GetParam()) * -expected[i] + denormal) << x.get(i);
  }
  EXPECT_TRUE(y.gaps_are_untouched());
}

TEST_P(CpuActivation, LogGateOfExtremesIsFinite) {
  const HostTensor x(GetParam(), {1, 4}, {-1e30, 1e30, 0, -0.0});
  const HostTensor y(GetParam(), {1, 4});
  const HostTensor grad(GetParam(), {1, 4}, {1, 1, 1, 1});
  const HostTensor grad_x(GetParam(), {1, 4});
  log_gate_forward(stream_, {.input = x, .normalizer = normalizer, .log_alpha = y});
  log_gate_backward(
      stream_,
      {.input = x, .grad_log_alpha = grad, .normalizer = normalizer, .grad_input = grad_x});
  EXPECT_NEAR(y.get(0) / (-1e30 / normalizer), 1, test::float_tolerance);
  EXPECT_EQ(y.get(1), 0);
  EXPECT_NEAR(y.get(2), -std::log(2.0) / normalizer, test::float_tolerance);
  EXPECT_EQ(grad_x.get(0), 1 / normalizer);
  EXPECT_EQ(grad_x.get(1), 0);
}

TEST_P(CpuActivation, BackwardMatchesItsFormulaAndMayOverwriteTheGradient) {
  const auto x = HostTensor::random(GetParam(), shape_, random_, -20, 20, padding);
  const auto grad = HostTensor::random(GetParam(), shape_, random_, -1, 1, padding);
  std::vector<double> swish_expected = grad.values();
  std::vector<double> gate_expected = grad.values();
  for (size_t i = 0; i < swish_expected.size(); ++i) {
    const double at = x.get(static_cast<int64_t>(i));
    const double sigmoid = 1 / (1 + std::exp(-at));
    swish_expected[i] *= sigmoid * (1 + at * (1 - sigmoid));
    gate_expected[i] *= (1 - sigmoid) / normalizer;
  }
  const HostTensor grad_x(GetParam(), shape_, padding);
  log_gate_backward(
      stream_,
      {.input = x, .grad_log_alpha = grad, .normalizer = normalizer, .grad_input = grad_x});
  EXPECT_LT(relative_error(grad_x.values(), gate_expected), tolerance(GetParam()));
  swish_backward(stream_, {.input = x, .grad_output = grad, .grad_input = grad});
  EXPECT_LT(relative_error(grad.values(), swish_expected), tolerance(GetParam()));
  EXPECT_TRUE(grad.gaps_are_untouched());
}

TEST_P(CpuActivation, SameBitsForAnyNumberOfThreads) {
  const Shape large{301, 257};
  const auto x = HostTensor::random(GetParam(), large, random_, -5, 5);
  std::vector<uint64_t> first;
  for (const int threads : {1, 2, 5}) {
    const test::ThreadCount count(threads);
    const HostTensor y(GetParam(), large);
    swish_forward(stream_, {.input = x, .output = y});
    if (first.empty()) {
      first = y.bits();
    }
    EXPECT_EQ(y.bits(), first) << threads << " threads";
  }
}

TEST(CpuActivation64, BackwardMatchesCentralDifferences) {
  constexpr auto dtype = DType::float64;
  const Shape shape{3, 5};
  test::Random random(11);
  test::TestStream stream;
  auto x = HostTensor::random(dtype, shape, random, -4, 4);
  const auto grad = HostTensor::random(dtype, shape, random);
  const HostTensor y(dtype, shape);
  const HostTensor grad_x(dtype, shape);

  swish_backward(stream, {.input = x, .grad_output = grad, .grad_input = grad_x});
  const auto swish_loss = [&] {
    swish_forward(stream, {.input = x, .output = y});
    return test::dot(y.values(), grad.values());
  };
  EXPECT_LT(relative_error(grad_x.values(), central_differences(x, swish_loss)),
            test::central_difference_tolerance);

  log_gate_backward(
      stream, {.input = x, .grad_log_alpha = grad, .normalizer = normalizer, .grad_input = grad_x});
  const auto gate_loss = [&] {
    log_gate_forward(stream, {.input = x, .normalizer = normalizer, .log_alpha = y});
    return test::dot(y.values(), grad.values());
  };
  EXPECT_LT(relative_error(grad_x.values(), central_differences(x, gate_loss)),
            test::central_difference_tolerance);
}

TEST(CpuActivationErrors, ShapesDtypesAndNormalizerAreChecked) {
  test::TestStream stream;
  const HostTensor x(DType::float32, {2, 3});
  const HostTensor narrow(DType::float32, {2, 2});
  const HostTensor wide(DType::float64, {2, 3});
  const HostTensor half(DType::bfloat16, {2, 3});
  EXPECT_THROW(swish_forward(stream, {.input = x, .output = narrow}), std::invalid_argument);
  EXPECT_THROW(swish_forward(stream, {.input = x, .output = wide}), std::invalid_argument);
  EXPECT_THROW(swish_forward(stream, {.input = {}, .output = x}), std::invalid_argument);
  EXPECT_THROW(log_gate_forward(stream, {.input = x, .normalizer = 0, .log_alpha = x}),
               std::invalid_argument);
  try {
    swish_forward(stream, {.input = half, .output = half});
    FAIL() << "bfloat16 was accepted";
  } catch (const std::invalid_argument& error) {
    EXPECT_STREQ(error.what(),
                 "swish_forward on the CPU computes in float32 or float64, not in bfloat16, which "
                 "computes on CUDA only; convert the tensors first");
  }
}

}  // namespace
}  // namespace gsa::kernels
