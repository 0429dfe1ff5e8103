#include "kernels/glu.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/numeric.h"
#include "tests/support/scratch.h"

namespace gsa::kernels {
namespace {

using test::HostTensor;
using test::relative_error;

constexpr int64_t rows = 19;
constexpr int64_t width = 45;
constexpr int64_t padding = 6;

struct Expected {
  std::vector<double> output;
  std::vector<double> grad_gate_up;
};

// The definition, element by element in double.
Expected definition(const HostTensor& gate_up, const HostTensor& grad_output) {
  Expected expected{std::vector<double>(rows * width), std::vector<double>(2 * rows * width)};
  for (int64_t n = 0; n < rows; ++n) {
    for (int64_t f = 0; f < width; ++f) {
      const int64_t gate_at = n * 2 * width + f;
      const double gate = gate_up.get(gate_at);
      const double up = gate_up.get(gate_at + width);
      const double grad = grad_output.get(n * width + f);
      const double sigmoid = 1 / (1 + std::exp(-gate));
      expected.output[n * width + f] = gate * sigmoid * up;
      expected.grad_gate_up[gate_at] = grad * up * sigmoid * (1 + gate * (1 - sigmoid));
      expected.grad_gate_up[gate_at + width] = grad * gate * sigmoid;
    }
  }
  return expected;
}

class CpuSwiglu : public testing::TestWithParam<DType> {
 protected:
  double tolerance() const {
    return GetParam() == DType::float64 ? test::double_tolerance : test::float_tolerance;
  }
  test::Random random_{3};
  test::TestStream stream_;
  HostTensor gate_up_ = HostTensor::random(GetParam(), {rows, 2 * width}, random_, -9, 9, padding);
  HostTensor grad_output_ = HostTensor::random(GetParam(), {rows, width}, random_, -1, 1, padding);
  Expected expected_ = definition(gate_up_, grad_output_);
};

INSTANTIATE_TEST_SUITE_P(Dtypes, CpuSwiglu, testing::Values(DType::float32, DType::float64),
                         [](const auto& suite) { return name_of(suite.param); });

TEST_P(CpuSwiglu, ForwardIsItsDefinitionOnStridedRows) {
  const HostTensor output(GetParam(), {rows, width}, padding + 1);
  swiglu_forward(stream_, {.gate_up = gate_up_, .output = output});
  EXPECT_LT(relative_error(output.values(), expected_.output), tolerance());
  EXPECT_TRUE(output.gaps_are_untouched());
}

TEST_P(CpuSwiglu, BackwardIsItsDefinitionAndRecomputesTheOutput) {
  const HostTensor output(GetParam(), {rows, width}, padding + 1);
  const HostTensor grad(GetParam(), {rows, 2 * width}, padding + 3);
  swiglu_backward(
      stream_,
      {.gate_up = gate_up_, .grad_output = grad_output_, .output = output, .grad_gate_up = grad});
  EXPECT_LT(relative_error(output.values(), expected_.output), tolerance());
  EXPECT_LT(relative_error(grad.values(), expected_.grad_gate_up), tolerance());
  EXPECT_TRUE(output.gaps_are_untouched() && grad.gaps_are_untouched());
}

TEST_P(CpuSwiglu, BackwardMayOverwriteItsInputs) {
  swiglu_backward(stream_, {.gate_up = gate_up_,
                            .grad_output = grad_output_,
                            .output = grad_output_,
                            .grad_gate_up = gate_up_});
  EXPECT_LT(relative_error(grad_output_.values(), expected_.output), tolerance());
  EXPECT_LT(relative_error(gate_up_.values(), expected_.grad_gate_up), tolerance());
}

TEST_P(CpuSwiglu, BackwardNeedsNoOutput) {
  const HostTensor grad(GetParam(), {rows, 2 * width});
  swiglu_backward(
      stream_,
      {.gate_up = gate_up_, .grad_output = grad_output_, .output = {}, .grad_gate_up = grad});
  EXPECT_LT(relative_error(grad.values(), expected_.grad_gate_up), tolerance());
}

constexpr int64_t hidden = 21;

// input weight^T, in double.
std::vector<double> product(const HostTensor& input, const HostTensor& weight) {
  std::vector<double> y(rows * 2 * width, 0.0);
  for (int64_t n = 0; n < rows; ++n) {
    for (int64_t f = 0; f < 2 * width; ++f) {
      for (int64_t d = 0; d < hidden; ++d) {
        y[n * 2 * width + f] += input.get(n * hidden + d) * weight.get(f * hidden + d);
      }
    }
  }
  return y;
}

TEST_P(CpuSwiglu, WithTheProductInFrontIsItsDefinition) {
  const auto input = HostTensor::random(GetParam(), {rows, hidden}, random_, -1, 1, padding);
  const auto weight = HostTensor::random(GetParam(), {2 * width, hidden}, random_, -1, 1);
  const HostTensor gate_up(GetParam(), {rows, 2 * width}, padding);
  const HostTensor output(GetParam(), {rows, width}, padding + 1);
  SwigluProductForward args{.input = input, .weight = weight, .gate_up = gate_up, .output = output};
  swiglu_product_forward(stream_, args);
  EXPECT_LT(relative_error(gate_up.values(), product(input, weight)), tolerance());
  EXPECT_LT(relative_error(output.values(), definition(gate_up, grad_output_).output), tolerance());
  EXPECT_TRUE(gate_up.gaps_are_untouched() && output.gaps_are_untouched());
  const HostTensor alone(GetParam(), {rows, 2 * width}, padding);
  args.gate_up = alone;
  args.output = {};
  swiglu_product_forward(stream_, args);
  EXPECT_EQ(alone.values(), gate_up.values());
}

TEST_P(CpuSwiglu, WithTheProductBehindGoesBackThroughBoth) {
  const auto grad = HostTensor::random(GetParam(), {rows, hidden}, random_, -1, 1, padding);
  const auto weight = HostTensor::random(GetParam(), {hidden, width}, random_, -1, 1);
  const HostTensor output(GetParam(), {rows, width}, padding + 1);
  const HostTensor grad_gate_up(GetParam(), {rows, 2 * width}, padding + 3);
  HostTensor grad_activated(GetParam(), {rows, width});
  for (int64_t n = 0; n < rows; ++n) {
    for (int64_t f = 0; f < width; ++f) {
      double sum = 0;
      for (int64_t d = 0; d < hidden; ++d) {
        sum += grad.get(n * hidden + d) * weight.get(d * width + f);
      }
      grad_activated.set(n * width + f, sum);
    }
  }
  const Expected expected = definition(gate_up_, grad_activated);
  swiglu_product_backward(stream_, {.grad_product = grad,
                                    .weight = weight,
                                    .gate_up = gate_up_,
                                    .output = output,
                                    .grad_gate_up = grad_gate_up});
  EXPECT_LT(relative_error(output.values(), expected.output), tolerance());
  EXPECT_LT(relative_error(grad_gate_up.values(), expected.grad_gate_up), tolerance());
  EXPECT_TRUE(output.gaps_are_untouched() && grad_gate_up.gaps_are_untouched());
}

TEST(CpuSwiglu64, BackwardMatchesCentralDifferences) {
  constexpr auto dtype = DType::float64;
  test::Random random(5);
  test::TestStream stream;
  auto gate_up = HostTensor::random(dtype, {3, 10}, random, -3, 3);
  const auto grad_output = HostTensor::random(dtype, {3, 5}, random);
  const HostTensor output(dtype, {3, 5});
  const HostTensor grad(dtype, {3, 10});
  swiglu_backward(
      stream, {.gate_up = gate_up, .grad_output = grad_output, .output = {}, .grad_gate_up = grad});
  const auto loss = [&] {
    swiglu_forward(stream, {.gate_up = gate_up, .output = output});
    return test::dot(output.values(), grad_output.values());
  };
  EXPECT_LT(relative_error(grad.values(), central_differences(gate_up, loss)),
            test::central_difference_tolerance);
}

TEST(CpuSwigluErrors, ShapesAndDtypesAreChecked) {
  test::TestStream stream;
  const HostTensor odd(DType::float32, {2, 5});
  const HostTensor even(DType::float32, {2, 6});
  const HostTensor output(DType::float32, {2, 3});
  const HostTensor half(DType::bfloat16, {2, 6});
  const HostTensor half_output(DType::bfloat16, {2, 3});
  EXPECT_THROW(swiglu_forward(stream, {.gate_up = odd, .output = output}), std::invalid_argument);
  EXPECT_THROW(swiglu_forward(stream, {.gate_up = even, .output = even}), std::invalid_argument);
  EXPECT_THROW(swiglu_forward(stream, {.gate_up = half, .output = half_output}),
               std::invalid_argument);
  EXPECT_THROW(
      swiglu_backward(
          stream, {.gate_up = even, .grad_output = output, .output = {}, .grad_gate_up = output}),
      std::invalid_argument);
  const HostTensor weight(DType::float32, {6, 4});
  const HostTensor input(DType::float32, {2, 4});
  EXPECT_THROW(swiglu_product_forward(
                   stream, {.input = output, .weight = weight, .gate_up = even, .output = output}),
               std::invalid_argument);
  EXPECT_THROW(swiglu_product_forward(
                   stream, {.input = input, .weight = weight, .gate_up = even, .output = even}),
               std::invalid_argument);
}

}  // namespace
}  // namespace gsa::kernels
