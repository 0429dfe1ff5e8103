#include "kernels/rms_norm.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/numeric.h"
#include "tests/support/scratch.h"

namespace gsa::kernels {
namespace {

using test::HostTensor;
using test::relative_error;

constexpr int64_t rows = 61;  // more than one block of rows, the last one not full
constexpr int64_t width = 301;
constexpr int64_t padding = 5;
constexpr double epsilon = 1e-3;  // large enough to be seen
// Sums over 61 rows and 301 columns in float32.
constexpr double float_sum_tolerance = 3e-6;

double swish(double x) {
  return x / (1 + std::exp(-x));
}

double swish_derivative(double x) {
  const double sigmoid = 1 / (1 + std::exp(-x));
  return sigmoid * (1 + x * (1 - sigmoid));
}

// The norm of rows of x and its gradients, from the textbook, in double.
struct Expected {
  Expected(const std::vector<double>& x, const std::vector<double>& weight,
           const std::vector<double>& grad)
      : inverse_rms(rows), output(x.size()), grad_x(x.size()), grad_weight(width) {
    for (int64_t n = 0; n < rows; ++n) {
      const int64_t at = n * width;
      double squares = 0;
      for (int64_t d = 0; d < width; ++d) {
        squares += x[at + d] * x[at + d];
      }
      const double r = 1 / std::sqrt(squares / width + epsilon);
      inverse_rms[n] = r;
      double mean = 0;  // of grad * weight * y
      for (int64_t d = 0; d < width; ++d) {
        const double y = x[at + d] * r;
        output[at + d] = y * weight[d];
        grad_weight[d] += grad[at + d] * y;
        mean += grad[at + d] * weight[d] * y / width;
      }
      for (int64_t d = 0; d < width; ++d) {
        grad_x[at + d] = r * (grad[at + d] * weight[d] - x[at + d] * r * mean);
      }
    }
  }
  std::vector<double> inverse_rms, output, grad_x, grad_weight;
};

std::vector<double> sum(std::vector<double> a, const std::vector<double>& b) {
  for (size_t i = 0; i < a.size(); ++i) {
    a[i] += b[i];
  }
  return a;
}

class CpuRmsNorm : public testing::TestWithParam<DType> {
 protected:
  HostTensor random_matrix() {
    return HostTensor::random(GetParam(), {rows, width}, random_, -3, 3, padding);
  }
  HostTensor empty_matrix() const { return {GetParam(), {rows, width}, padding + 2}; }
  double tolerance() const {
    return GetParam() == DType::float64 ? test::double_tolerance : float_sum_tolerance;
  }

  test::Random random_{77};
  test::TestStream stream_;
  HostTensor x_ = random_matrix();
  HostTensor grad_ = random_matrix();
  HostTensor weight_ = HostTensor::random(GetParam(), {width}, random_, 0.5, 1.5);
  HostTensor inverse_rms_{GetParam(), {rows}};
  HostTensor grad_weight_ = HostTensor::random(GetParam(), {width}, random_);
  const std::vector<double> ones_ = std::vector<double>(width, 1);
};

INSTANTIATE_TEST_SUITE_P(Dtypes, CpuRmsNorm, testing::Values(DType::float32, DType::float64),
                         [](const auto& suite) { return name_of(suite.param); });

TEST_P(CpuRmsNorm, ForwardIsItsDefinitionWithAndWithoutWeight) {
  for (const bool weighted : {false, true}) {
    const Expected expected(x_.values(), weighted ? weight_.values() : ones_, grad_.values());
    const auto output = empty_matrix();
    rms_norm_forward(stream_, {.input = x_,
                               .weight = weighted ? ConstTensor(weight_) : ConstTensor(),
                               .epsilon = epsilon,
                               .output = output,
                               .inverse_rms = inverse_rms_});
    EXPECT_LT(relative_error(output.values(), expected.output), tolerance());
    EXPECT_LT(relative_error(inverse_rms_.values(), expected.inverse_rms), tolerance());
    EXPECT_TRUE(output.gaps_are_untouched());
  }
}

TEST_P(CpuRmsNorm, BackwardIsItsDefinitionAndAccumulatesTheWeightGradient) {
  const auto residual = random_matrix();
  const Expected expected(x_.values(), weight_.values(), grad_.values());
  const HostTensor inverse_rms(GetParam(), {rows}, expected.inverse_rms);
  const auto weight_expected = sum(grad_weight_.values(), expected.grad_weight);
  const auto grad_x = empty_matrix();
  rms_norm_backward(stream_, {.input = x_,
                              .weight = weight_,
                              .inverse_rms = inverse_rms,
                              .grad_output = grad_,
                              .grad_residual = residual,
                              .grad_input = grad_x,
                              .grad_weight = grad_weight_});
  EXPECT_LT(relative_error(grad_x.values(), sum(residual.values(), expected.grad_x)), tolerance());
  EXPECT_LT(relative_error(grad_weight_.values(), weight_expected), tolerance());
  EXPECT_TRUE(grad_x.gaps_are_untouched());
  EXPECT_EQ(stream_.scratch().lent(), 0U);
}

TEST_P(CpuRmsNorm, BackwardMayOverwriteEitherGradientAndNeedsNoWeight) {
  const Expected expected(x_.values(), ones_, grad_.values());
  const HostTensor inverse_rms(GetParam(), {rows}, expected.inverse_rms);
  const auto residual = random_matrix();
  const auto with_residual = sum(residual.values(), expected.grad_x);
  const auto run = [&](const ConstTensor& added, const Tensor& grad_input) {
    rms_norm_backward(stream_, {.input = x_,
                                .weight = {},
                                .inverse_rms = inverse_rms,
                                .grad_output = grad_,
                                .grad_residual = added,
                                .grad_input = grad_input,
                                .grad_weight = {}});
  };
  run(residual, residual);
  EXPECT_LT(relative_error(residual.values(), with_residual), tolerance());
  run({}, grad_);
  EXPECT_LT(relative_error(grad_.values(), expected.grad_x), tolerance());
}

TEST_P(CpuRmsNorm, BackwardWritesTheOutputOfForwardBitForBit) {
  for (const bool weighted : {false, true}) {
    const auto weight = weighted ? ConstTensor(weight_) : ConstTensor();
    const auto grad_weight = weighted ? Tensor(grad_weight_) : Tensor();
    const auto output = empty_matrix();
    rms_norm_forward(stream_, {.input = x_,
                               .weight = weight,
                               .epsilon = epsilon,
                               .output = output,
                               .inverse_rms = inverse_rms_});
    const HostTensor grad(GetParam(), {rows, width}, grad_.values(), padding);
    const auto grad_x = empty_matrix();
    rms_norm_backward(stream_, {.input = x_,
                                .weight = weight,
                                .inverse_rms = inverse_rms_,
                                .grad_output = grad,
                                .grad_residual = {},
                                .output = grad,  // over what it was made with
                                .grad_input = grad_x,
                                .grad_weight = grad_weight});
    EXPECT_EQ(grad.values(), output.values());

    swish_rms_norm_forward(stream_, {.input = x_,
                                     .weight = weight,
                                     .epsilon = epsilon,
                                     .output = output,
                                     .inverse_rms = inverse_rms_});
    const HostTensor x(GetParam(), {rows, width}, x_.values(), padding);
    const HostTensor swish_grad(GetParam(), {rows, width}, grad_.values(), padding);
    swish_rms_norm_backward(stream_, {.input = x_,
                                      .weight = weight,
                                      .inverse_rms = inverse_rms_,
                                      .grad_output = swish_grad,
                                      .output = {},
                                      .grad_input = grad_x,
                                      .grad_weight = grad_weight});
    swish_rms_norm_backward(stream_, {.input = x,
                                      .weight = weight,
                                      .inverse_rms = inverse_rms_,
                                      .grad_output = swish_grad,
                                      .output = swish_grad,
                                      .grad_input = x,  // both in place
                                      .grad_weight = grad_weight});
    EXPECT_EQ(swish_grad.values(), output.values());
    EXPECT_EQ(x.values(), grad_x.values());
  }
}

TEST_P(CpuRmsNorm, SwishVariantIsItsDefinition) {
  auto x = x_.values();
  for (double& value : x) {
    value = swish(value);
  }
  for (const bool weighted : {false, true}) {
    const Expected expected(x, weighted ? weight_.values() : ones_, grad_.values());
    const auto weight = weighted ? ConstTensor(weight_) : ConstTensor();
    const auto output = empty_matrix();
    swish_rms_norm_forward(stream_, {.input = x_,
                                     .weight = weight,
                                     .epsilon = epsilon,
                                     .output = output,
                                     .inverse_rms = inverse_rms_});
    EXPECT_LT(relative_error(output.values(), expected.output), tolerance());
    EXPECT_LT(relative_error(inverse_rms_.values(), expected.inverse_rms), tolerance());

    auto grad_expected = expected.grad_x;
    for (size_t i = 0; i < x.size(); ++i) {
      grad_expected[i] *= swish_derivative(x_.get(static_cast<int64_t>(i)));
    }
    const auto weight_expected = sum(grad_weight_.values(), expected.grad_weight);
    const HostTensor grad(GetParam(), {rows, width}, grad_.values(), padding);
    swish_rms_norm_backward(stream_, {.input = x_,
                                      .weight = weight,
                                      .inverse_rms = inverse_rms_,
                                      .grad_output = grad,
                                      .grad_input = grad,  // in place
                                      .grad_weight = weighted ? Tensor(grad_weight_) : Tensor()});
    EXPECT_LT(relative_error(grad.values(), grad_expected), tolerance());
    if (weighted) {
      EXPECT_LT(relative_error(grad_weight_.values(), weight_expected), tolerance());
    }
    EXPECT_TRUE(output.gaps_are_untouched() && grad.gaps_are_untouched());
  }
}

TEST_P(CpuRmsNorm, SameBitsForAnyNumberOfThreads) {
  const Expected expected(x_.values(), weight_.values(), grad_.values());
  const HostTensor inverse_rms(GetParam(), {rows}, expected.inverse_rms);
  std::vector<uint64_t> first;
  std::vector<uint64_t> first_swish;
  for (const int threads : {1, 2, 3, 4}) {
    const test::ThreadCount count(threads);
    const HostTensor grad_weight(GetParam(), {width}, ones_);
    const HostTensor swish_grad_weight(GetParam(), {width}, ones_);
    const auto grad_x = empty_matrix();
    rms_norm_backward(stream_, {.input = x_,
                                .weight = weight_,
                                .inverse_rms = inverse_rms,
                                .grad_output = grad_,
                                .grad_residual = {},
                                .grad_input = grad_x,
                                .grad_weight = grad_weight});
    swish_rms_norm_backward(stream_, {.input = x_,
                                      .weight = weight_,
                                      .inverse_rms = inverse_rms,
                                      .grad_output = grad_,
                                      .grad_input = grad_x,
                                      .grad_weight = swish_grad_weight});
    if (first.empty()) {
      first = grad_weight.bits();
      first_swish = swish_grad_weight.bits();
    }
    EXPECT_EQ(grad_weight.bits(), first) << threads << " threads";
    EXPECT_EQ(swish_grad_weight.bits(), first_swish) << threads << " threads";
  }
}

// x, its weight and everything around them for the checks by central differences.
class CpuRmsNorm64 : public testing::Test {
 protected:
  static constexpr auto dtype = DType::float64;
  static constexpr double eps = 1e-6;
  const Shape shape_{5, 7};
  test::Random random_{9};
  test::TestStream stream_;
  HostTensor x_ = HostTensor::random(dtype, shape_, random_, -2, 2);
  HostTensor weight_ = HostTensor::random(dtype, {7}, random_, 0.5, 1.5);
  HostTensor grad_ = HostTensor::random(dtype, shape_, random_);
  HostTensor output_{dtype, shape_};
  HostTensor inverse_rms_{dtype, {5}};
  HostTensor grad_x_{dtype, shape_};
  HostTensor grad_weight_{dtype, {7}, std::vector<double>(7)};
};

TEST_F(CpuRmsNorm64, BackwardMatchesCentralDifferences) {
  const auto loss = [&] {
    rms_norm_forward(stream_, {.input = x_,
                               .weight = weight_,
                               .epsilon = eps,
                               .output = output_,
                               .inverse_rms = inverse_rms_});
    return test::dot(output_.values(), grad_.values());
  };
  loss();
  rms_norm_backward(stream_, {.input = x_,
                              .weight = weight_,
                              .inverse_rms = inverse_rms_,
                              .grad_output = grad_,
                              .grad_residual = {},
                              .grad_input = grad_x_,
                              .grad_weight = grad_weight_});
  EXPECT_LT(relative_error(grad_x_.values(), central_differences(x_, loss)),
            test::central_difference_tolerance);
  EXPECT_LT(relative_error(grad_weight_.values(), central_differences(weight_, loss)),
            test::central_difference_tolerance);
}

TEST_F(CpuRmsNorm64, SwishBackwardMatchesCentralDifferences) {
  const auto loss = [&] {
    swish_rms_norm_forward(stream_, {.input = x_,
                                     .weight = weight_,
                                     .epsilon = eps,
                                     .output = output_,
                                     .inverse_rms = inverse_rms_});
    return test::dot(output_.values(), grad_.values());
  };
  loss();
  swish_rms_norm_backward(stream_, {.input = x_,
                                    .weight = weight_,
                                    .inverse_rms = inverse_rms_,
                                    .grad_output = grad_,
                                    .grad_input = grad_x_,
                                    .grad_weight = grad_weight_});
  EXPECT_LT(relative_error(grad_x_.values(), central_differences(x_, loss)),
            test::central_difference_tolerance);
  EXPECT_LT(relative_error(grad_weight_.values(), central_differences(weight_, loss)),
            test::central_difference_tolerance);
}

TEST(CpuRmsNormErrors, ShapesDtypesAndCompanionsAreChecked) {
  test::TestStream stream;
  const HostTensor x(DType::float32, {2, 3});
  const HostTensor narrow(DType::float32, {2, 2});
  const HostTensor weight(DType::float32, {3});
  const HostTensor r(DType::float32, {2});
  const HostTensor r64(DType::float64, {2});
  const HostTensor half(DType::bfloat16, {2, 3});
  RmsNormForward forward{.input = x, .output = x, .inverse_rms = r64};
  EXPECT_THROW(rms_norm_forward(stream, forward), std::invalid_argument);
  forward.inverse_rms = r;
  forward.weight = narrow;
  EXPECT_THROW(rms_norm_forward(stream, forward), std::invalid_argument);
  forward.weight = {};
  EXPECT_THROW(swish_rms_norm_forward(stream, {.input = half, .output = half, .inverse_rms = r}),
               std::invalid_argument);
  const RmsNormBackward no_place{
      .input = x, .weight = weight, .inverse_rms = r, .grad_output = x, .grad_input = x};
  EXPECT_THROW(rms_norm_backward(stream, no_place), std::invalid_argument);
  const RmsNormBackward one_place{
      .input = x, .inverse_rms = r, .grad_output = x, .output = weight, .grad_input = weight};
  EXPECT_THROW(rms_norm_backward(stream, one_place), std::invalid_argument);
}

}  // namespace
}  // namespace gsa::kernels
