// The operations of a decode step against the operations of training that they take the place of.
#include "kernels/decode.h"

#include <gtest/gtest.h>

#include <array>
#include <limits>
#include <utility>

#include "kernels/activation.h"
#include "kernels/glu.h"
#include "kernels/gsa.h"
#include "kernels/matmul.h"
#include "kernels/rms_norm.h"
#include "tests/support/numeric.h"
#include "tests/support/scratch.h"

namespace gsa::kernels {
namespace {

using test::HostTensor;
using test::relative_error;

constexpr int64_t rows = 5;
constexpr int64_t columns = 37;
constexpr int64_t outputs = 23;
constexpr int64_t padding = 3;

class CpuDecode : public testing::TestWithParam<DType> {
 protected:
  DType dtype() const { return GetParam(); }
  double tolerance() const {
    return dtype() == DType::float64 ? test::double_tolerance : test::float_tolerance;
  }
  HostTensor random(Shape shape, double low = -1, double high = 1, int64_t gap = 0) {
    return HostTensor::random(dtype(), shape, random_, low, high, gap);
  }
  HostTensor output(Shape shape) const { return {dtype(), shape}; }

  test::Random random_{17};
  test::TestStream stream_;
};

INSTANTIATE_TEST_SUITE_P(Dtypes, CpuDecode, testing::Values(DType::float32, DType::float64),
                         [](const auto& suite) { return name_of(suite.param); });

TEST_P(CpuDecode, LinearIsNormProductAndActivation) {
  const HostTensor input = random({rows, columns}, -2, 2, padding);
  const HostTensor weight = random({2 * outputs, columns});
  const HostTensor norm_weight = random({columns}, 0.5, 1.5);
  const HostTensor normalized = output({rows, columns});
  const HostTensor inverse_rms = output({rows});
  const HostTensor product = output({rows, 2 * outputs});
  const HostTensor expected = output({rows, outputs});
  rms_norm_forward(stream_, {.input = input,
                             .weight = norm_weight,
                             .epsilon = 1e-3,
                             .output = normalized,
                             .inverse_rms = inverse_rms});
  matmul(stream_, {.a = normalized, .b = weight, .transpose_b = Transpose::yes, .c = product});
  swiglu_forward(stream_, {.gate_up = product, .output = expected});

  const HostTensor got(dtype(), {rows, outputs}, padding);
  decode_linear(stream_, {.input = input,
                          .norm = DecodeNorm::rms_norm,
                          .norm_weight = norm_weight,
                          .epsilon = 1e-3,
                          .weight = weight,
                          .activation = DecodeActivation::swiglu,
                          .output = got});
  EXPECT_LT(relative_error(got.values(), expected.values()), tolerance());
  EXPECT_TRUE(got.gaps_are_untouched());
}

TEST_P(CpuDecode, LinearAddsToTheResidualInPlace) {
  const HostTensor input = random({rows, columns}, -2, 2);
  const HostTensor weight = random({outputs, columns});
  const HostTensor stream = random({rows, outputs}, -1, 1, padding);
  const HostTensor normalized = output({rows, columns});
  const HostTensor inverse_rms = output({rows});
  const HostTensor product = output({rows, outputs});
  rms_norm_forward(stream_, {.input = input,
                             .weight = {},
                             .epsilon = 1e-5,
                             .output = normalized,
                             .inverse_rms = inverse_rms});
  matmul(stream_, {.a = normalized, .b = weight, .transpose_b = Transpose::yes, .c = product});
  std::vector<double> expected = stream.values();
  for (size_t i = 0; i < expected.size(); ++i) {
    expected[i] += product.get(static_cast<int64_t>(i));
  }
  decode_linear(stream_, {.input = input,
                          .norm = DecodeNorm::rms_norm,
                          .epsilon = 1e-5,
                          .weight = weight,
                          .residual = stream,
                          .output = stream});
  EXPECT_LT(relative_error(stream.values(), expected), tolerance());
}

TEST_P(CpuDecode, RowsDoNotDependOnEachOther) {
  const HostTensor input = random({rows, columns});
  const HostTensor weight = random({outputs, columns});
  const HostTensor all = output({rows, outputs});
  decode_linear(stream_, {.input = input, .weight = weight, .output = all});
  const Tensor inputs = input;
  for (int64_t n = 0; n < rows; ++n) {
    const HostTensor one = output({1, outputs});
    decode_linear(stream_, {.input = inputs.rows(n, n + 1), .weight = weight, .output = one});
    for (int64_t i = 0; i < outputs; ++i) {
      EXPECT_EQ(one.get(i), all.get(n * outputs + i));
    }
  }
}

TEST_P(CpuDecode, LinearRefusesWhatDoesNotFit) {
  const HostTensor input = random({rows, columns});
  const HostTensor weight = random({outputs, columns});
  const HostTensor right = output({rows, outputs});
  const HostTensor wrong = output({rows, outputs - 1});
  EXPECT_THROW(decode_linear(stream_, {.input = input, .weight = weight, .output = wrong}),
               std::invalid_argument);
  EXPECT_THROW(decode_linear(stream_, {.input = input,
                                       .weight = weight,
                                       .activation = DecodeActivation::swiglu,
                                       .output = right}),
               std::invalid_argument);
}

TEST_P(CpuDecode, GsaStepIsTheRecurrentFormAndSwish) {
  constexpr int64_t query_heads = 4;
  constexpr int64_t heads = 2;
  constexpr int64_t dim = 8;
  constexpr int64_t slots = 16;
  constexpr int64_t activated = (query_heads + 2 * heads) * dim;
  constexpr int64_t all = activated + heads * slots;
  const HostTensor key_state = random({rows, query_heads, dim, slots});
  const HostTensor value_state = random({rows, query_heads, slots, dim});
  const HostTensor expected_key(dtype(), {rows, query_heads, dim, slots}, key_state.values());
  const HostTensor expected_value(dtype(), {rows, query_heads, slots, dim}, value_state.values());
  std::vector<int32_t> offsets(rows + 1);
  for (int64_t i = 0; i <= rows; ++i) {
    offsets[static_cast<size_t>(i)] = static_cast<int32_t>(i);
  }
  for (int step = 0; step < 3; ++step) {
    const HostTensor projected = random({rows, all}, -2, 2, padding);
    const Tensor columns_of = projected;
    const HostTensor qkv = output({rows, activated});
    const HostTensor log_alpha = output({rows, heads * slots});
    const HostTensor expected = output({rows, query_heads, dim});
    swish_forward(stream_, {.input = columns_of.columns(0, activated), .output = qkv});
    log_gate_forward(
        stream_,
        {.input = columns_of.columns(activated, all), .normalizer = 4, .log_alpha = log_alpha});
    const Tensor parts = qkv;
    const auto view = [&](int64_t begin, int64_t count) {
      return parts.columns(begin * dim, (begin + count) * dim).reshape({rows, count, dim});
    };
    gsa_recurrent_forward(
        stream_, {.q = view(0, query_heads),
                  .k = view(query_heads, heads),
                  .v = view(query_heads + heads, heads),
                  .log_alpha = Tensor(log_alpha).reshape({rows, heads, slots}),
                  .sequences = {.host = offsets,
                                .offsets = ConstTensor(offsets.data(), DType::int32, Device::cpu,
                                                       {rows + 1})},
                  .scale = 0.5,
                  .initial_key_state = expected_key,
                  .initial_value_state = expected_value,
                  .output = expected,
                  .final_key_state = expected_key,
                  .final_value_state = expected_value});
    swish_forward(stream_, {.input = Tensor(expected).reshape({rows, query_heads * dim}),
                            .output = Tensor(expected).reshape({rows, query_heads * dim})});
    const HostTensor got = output({rows, query_heads * dim});
    gsa_decode(stream_, {.projected = projected,
                         .query_heads = query_heads,
                         .heads = heads,
                         .gate_normalizer = 4,
                         .scale = 0.5,
                         .key_state = key_state,
                         .value_state = value_state,
                         .output = got});
    EXPECT_LT(relative_error(got.values(), expected.values()), tolerance());
  }
  EXPECT_LT(relative_error(key_state.values(), expected_key.values()), tolerance());
  EXPECT_LT(relative_error(value_state.values(), expected_value.values()), tolerance());
}

TEST_P(CpuDecode, GsaStepsThatKeepTokensLeaveWhatOthersDo) {
  constexpr int64_t query_heads = 4;
  constexpr int64_t heads = 2;
  constexpr int64_t key_dim = 8;
  constexpr int64_t value_dim = 12;
  constexpr int64_t slots = 20;
  constexpr int64_t projected_columns =
      query_heads * key_dim + heads * (key_dim + value_dim + slots);
  for (const auto& [period, offset] :
       {std::pair{8, 0}, {8, 3}, {8, 7}, {8, 21}, {3, 1}, {2, 0}, {2, 1}}) {
    const HostTensor key = random({rows, query_heads, key_dim, slots});
    const HostTensor value = random({rows, query_heads, slots, value_dim});
    const HostTensor expected_key(dtype(), key.view().shape(), key.values());
    const HostTensor expected_value(dtype(), value.view().shape(), value.values());
    const Shape kept_shape = KeptTokens::shape(rows, heads, period, key_dim, value_dim, slots);
    const HostTensor kept(
        dtype(), kept_shape,
        std::vector<double>(size_t(kept_shape.count()), std::numeric_limits<double>::quiet_NaN()));
    const HostTensor step(DType::int32, {1}, {0});
    int writes = 0;
    for (int n = 0; n < 3 * period + 2; ++n) {
      const HostTensor projected = random({rows, projected_columns}, -4, 4, padding);
      const HostTensor expected = output({rows, query_heads * value_dim});
      const HostTensor got(dtype(), {rows, query_heads * value_dim}, padding);
      GsaDecode args{.projected = projected,
                     .query_heads = query_heads,
                     .heads = heads,
                     .gate_normalizer = 4,
                     .scale = 0.5,
                     .key_state = expected_key,
                     .value_state = expected_value,
                     .output = expected};
      gsa_decode(stream_, args);
      args.key_state = key;
      args.value_state = value;
      args.output = got;
      args.kept = {.rows = kept, .step = step, .offset = offset};
      const auto before = key.bits();
      gsa_decode(stream_, args);
      count_step(stream_, {.step = step});
      const std::string where = "period " + std::to_string(period) + ", offset " +
                                std::to_string(offset) + ", step " + std::to_string(n);
      EXPECT_LT(relative_error(got.values(), expected.values()), 2 * tolerance()) << where;
      EXPECT_TRUE(got.gaps_are_untouched());
      if ((n + offset) % period == period - 1) {
        ++writes;
        EXPECT_LT(relative_error(key.values(), expected_key.values()), 2 * tolerance()) << where;
        EXPECT_LT(relative_error(value.values(), expected_value.values()), 2 * tolerance())
            << where;
      } else {
        EXPECT_EQ(key.bits(), before) << where;
      }
    }
    EXPECT_GE(writes, 3);
    EXPECT_EQ(step.get(0), 3 * period + 2);
  }
}

TEST_P(CpuDecode, GsaStepRefusesKeptTokensThatDoNotFit) {
  constexpr int64_t dim = 8;
  constexpr int64_t slots = 16;
  const HostTensor projected = random({rows, 3 * dim + slots});
  const HostTensor got = output({rows, dim});
  const HostTensor step(DType::int32, {1}, {0});
  const HostTensor kept(dtype(), KeptTokens::shape(rows, 1, 4, dim, dim, slots));
  const HostTensor narrow(dtype(), {rows, 1, 3, kept.view().dim(3) - 1});
  const HostTensor key = random({rows, 1, dim, slots});
  const HostTensor value = random({rows, 1, slots, dim});
  const auto run = [&](const KeptTokens& tokens) {
    gsa_decode(stream_, {.projected = projected,
                         .key_state = key,
                         .value_state = value,
                         .kept = tokens,
                         .output = got});
  };
  EXPECT_NO_THROW(run({.rows = kept, .step = step}));
  EXPECT_THROW(run({.rows = narrow, .step = step}), std::invalid_argument);
  EXPECT_THROW(run({.rows = kept, .step = {}}), std::invalid_argument);
  EXPECT_THROW(run({.rows = kept, .step = step, .offset = -1}), std::invalid_argument);
}

TEST_P(CpuDecode, StepRunsItsOperationsInOrder) {
  constexpr int64_t heads = 2;
  constexpr int64_t dim = 8;
  constexpr int64_t slots = 16;
  constexpr int64_t projected_columns = heads * (3 * dim + slots);
  constexpr int64_t width = heads * dim;
  const HostTensor input = random({rows, width});
  const HostTensor first = random({projected_columns, width});
  const HostTensor second = random({width, width});
  const HostTensor key_state = random({rows, heads, dim, slots});
  const HostTensor value_state = random({rows, heads, slots, dim});
  const auto run = [&](bool as_step) {
    const HostTensor stream(dtype(), {rows, width}, input.values());
    const HostTensor key(dtype(), {rows, heads, dim, slots}, key_state.values());
    const HostTensor value(dtype(), {rows, heads, slots, dim}, value_state.values());
    const HostTensor projected = output({rows, projected_columns});
    const HostTensor o = output({rows, width});
    const DecodeLinear project{.input = stream,
                               .norm = DecodeNorm::rms_norm,
                               .norm_weight = {},
                               .weight = first,
                               .residual = {},
                               .output = projected};
    const GsaDecode mix{.projected = projected,
                        .query_heads = heads,
                        .heads = heads,
                        .key_state = key,
                        .value_state = value,
                        .output = o};
    const DecodeLinear add{
        .input = o, .norm_weight = {}, .weight = second, .residual = stream, .output = stream};
    if (as_step) {
      decode_step(stream_, {.operations = {project, mix, add}});
    } else {
      decode_linear(stream_, project);
      gsa_decode(stream_, mix);
      decode_linear(stream_, add);
    }
    return std::array{stream.values(), key.values(), value.values()};
  };
  EXPECT_EQ(run(true), run(false));
}

TEST_P(CpuDecode, StepRefusesOperationsOfDifferentSequences) {
  const HostTensor weight = random({outputs, columns});
  const HostTensor five = random({rows, columns});
  const HostTensor four = random({rows - 1, columns});
  const HostTensor first = output({rows, outputs});
  const HostTensor second = output({rows - 1, outputs});
  const DecodeLinear of_five{
      .input = five, .norm_weight = {}, .weight = weight, .residual = {}, .output = first};
  const DecodeLinear of_four{
      .input = four, .norm_weight = {}, .weight = weight, .residual = {}, .output = second};
  EXPECT_THROW(decode_step(stream_, {.operations = {of_five, of_four}}), std::invalid_argument);
  EXPECT_NO_THROW(decode_step(stream_, {}));
}

}  // namespace
}  // namespace gsa::kernels
