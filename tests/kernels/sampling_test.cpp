#include "kernels/sampling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "kernels/sampling_math.h"
#include "tests/support/host_tensor.h"
#include "tests/support/scratch.h"

namespace gsa::kernels {
namespace {

// Tokens drawn from the same logits at positions 0 to count - 1.
std::vector<int32_t> draw(std::vector<float> logits, const SamplingOptions& options, int count,
                          int64_t sequence = 0) {
  test::TestStream stream;
  int32_t position = 0;
  int32_t token = -1;
  const auto columns = static_cast<int64_t>(logits.size());
  std::vector<int32_t> tokens;
  for (int i = 0; i < count; ++i) {
    sample_tokens(stream,
                  {.logits = Tensor(logits.data(), DType::float32, Device::cpu, {1, columns}),
                   .options = options,
                   .first_sequence = sequence,
                   .positions = Tensor(&position, DType::int32, Device::cpu, {1}),
                   .tokens = Tensor(&token, DType::int32, Device::cpu, {1})});
    tokens.push_back(token);
  }
  EXPECT_EQ(position, count);
  return tokens;
}

std::map<int32_t, double> shares(const std::vector<int32_t>& tokens) {
  std::map<int32_t, double> shares;
  for (const int32_t token : tokens) {
    shares[token] += 1.0 / double(tokens.size());
  }
  return shares;
}

TEST(Sampling, TemperatureZeroTakesTheMostProbableAndOfEqualsTheFirst) {
  EXPECT_EQ(draw({0.5F, 3.0F, 2.0F}, {.temperature = 0}, 1).front(), 1);
  EXPECT_EQ(draw({-1.0F, -0.0F, 0.0F, -2.0F}, {.temperature = 0}, 1).front(), 1);
  EXPECT_EQ(draw({NAN, -7.0F, -8.0F}, {.temperature = 0}, 1).front(), 1);
}

TEST(Sampling, SameSeedAndSequenceGiveTheSameTokens) {
  const std::vector<float> logits = {1.0F, 0.5F, 0.2F, 2.0F, -1.0F};
  constexpr int count = 50;
  EXPECT_EQ(draw(logits, {.seed = 7}, count), draw(logits, {.seed = 7}, count));
  EXPECT_NE(draw(logits, {.seed = 7}, count), draw(logits, {.seed = 8}, count));
  EXPECT_NE(draw(logits, {.seed = 7}, count), draw(logits, {.seed = 7}, count, 1));
}

TEST(Sampling, ABatchDrawsWhatItsSequencesDrawAlone) {
  constexpr int64_t sequences = 6;
  constexpr int64_t columns = 50;
  test::Random random(3);
  test::TestStream stream;
  std::vector<float> logits(sequences * columns);
  std::generate(logits.begin(), logits.end(), [&] { return float(random.uniform(-2, 2)); });
  std::vector<int32_t> positions(sequences, 4);
  std::vector<int32_t> tokens(sequences);
  const SamplingOptions options{.top_k = 20, .top_p = 0.9, .seed = 5};
  const auto run = [&](int64_t begin, int64_t end) {
    const Tensor all(logits.data(), DType::float32, Device::cpu, {sequences, columns});
    const Tensor at(positions.data(), DType::int32, Device::cpu, {sequences});
    const Tensor drawn(tokens.data(), DType::int32, Device::cpu, {sequences});
    sample_tokens(stream, {.logits = all.rows(begin, end),
                           .options = options,
                           .first_sequence = 10 + begin,
                           .positions = at.rows(begin, end),
                           .tokens = drawn.rows(begin, end)});
  };
  run(0, sequences);
  const std::vector<int32_t> together = tokens;
  positions.assign(sequences, 4);
  tokens.assign(sequences, -1);
  for (int64_t i = 0; i < sequences; ++i) {
    run(i, i + 1);
  }
  EXPECT_EQ(tokens, together);
}

TEST(Sampling, AHistoryHasTheLastDraws) {
  constexpr int32_t missing = -1;
  test::TestStream stream;
  std::vector<float> logits = {0.1F, 0.2F, 0.9F, 0.8F};
  std::vector<int32_t> positions(2, 0);
  std::vector<int32_t> tokens(2);
  std::vector<int32_t> history(6, missing);
  const auto ints = [](std::vector<int32_t>& values, const Shape& shape) {
    return Tensor(values.data(), DType::int32, Device::cpu, shape);
  };
  SampleTokens args{.logits = Tensor(logits.data(), DType::float32, Device::cpu, {2, 2}),
                    .options = {.temperature = 0},
                    .positions = ints(positions, {2}),
                    .tokens = ints(tokens, {2}),
                    .history = ints(history, {3, 2})};
  sample_tokens(stream, args);
  logits = {0.4F, 0.2F, 0.9F, 0.8F};
  sample_tokens(stream, args);
  EXPECT_EQ(history, (std::vector<int32_t>{1, 0, 0, 0, missing, missing}));
  positions = {3, 5};
  sample_tokens(stream, args);
  EXPECT_EQ(history, (std::vector<int32_t>{0, 0, 0, 0, missing, 0}));
  args.history = ints(history, {6});
  EXPECT_THROW(sample_tokens(stream, args), std::invalid_argument);
}

TEST(Sampling, DrawsInProportion) {
  constexpr int draws = 20000;
  constexpr double three_sigma = 0.011;
  const std::vector<float> logits = {std::log(0.2F), std::log(0.5F), std::log(0.3F)};
  auto found = shares(draw(logits, {.seed = 8}, draws));
  EXPECT_NEAR(found[0], 0.2, three_sigma);
  EXPECT_NEAR(found[1], 0.5, three_sigma);
  // At temperature 1/2 probabilities are squared: 4, 25 and 9 of 38.
  found = shares(draw(logits, {.temperature = 0.5, .seed = 9}, draws));
  EXPECT_NEAR(found[0], 4.0 / 38, three_sigma);
  EXPECT_NEAR(found[1], 25.0 / 38, three_sigma);
}

TEST(Sampling, TopKAndTopPCutTheTail) {
  constexpr int draws = 500;
  const std::vector<float> logits = {std::log(0.05F), std::log(0.3F), std::log(0.5F),
                                     std::log(0.15F)};
  EXPECT_EQ(shares(draw(logits, {.top_k = 2, .seed = 9}, draws)).size(), 2U);
  EXPECT_EQ(shares(draw(logits, {.top_k = 1, .seed = 9}, draws)).size(), 1U);
  EXPECT_EQ(shares(draw(logits, {.top_p = 0.75, .seed = 9}, draws)).size(), 2U);
  EXPECT_EQ(shares(draw(logits, {.top_p = 0.9, .seed = 9}, draws)).size(), 3U);
  EXPECT_EQ(shares(draw(logits, {.top_p = 1e-6, .seed = 9}, draws)).size(), 1U);
  // Of the two that top-k keeps, the first has 5/8 of the probability.
  EXPECT_EQ(shares(draw(logits, {.top_k = 2, .top_p = 0.6, .seed = 9}, draws)).size(), 1U);
}

TEST(Sampling, WhatIsAsProbableAsTheLastTokenKeptIsKept) {
  EXPECT_EQ(shares(draw({1.0F, 2.0F, 1.0F, 0.0F}, {.top_k = 2, .seed = 1}, 500)).size(), 3U);
}

TEST(Sampling, WeightsAreExponentials) {
  constexpr double tolerance = 1e-6;
  for (const double temperature : {0.3, 1.0, 2.0}) {
    const float scale = sampling::exponent_scale(temperature);
    for (double logit = 3.0; logit > -5.0; logit -= 0.0137) {
      const double exact = std::exp((double(float(logit)) - 3.0) / temperature);
      const double got = double(sampling::weight_of(float(logit), 3.0F, scale)) * 0x1p-30;
      EXPECT_NEAR(got, exact, tolerance * exact + 0x1p-30) << logit;
    }
  }
  const float scale = sampling::exponent_scale(1.0);
  EXPECT_EQ(sampling::weight_of(-INFINITY, 3.0F, scale), 0U);
  EXPECT_EQ(sampling::weight_of(NAN, 3.0F, scale), 0U);
}

TEST(Sampling, RefusesOptionsOutOfRange) {
  EXPECT_THROW(SamplingOptions({.temperature = -1}).check(), std::invalid_argument);
  EXPECT_THROW(SamplingOptions({.top_k = -1}).check(), std::invalid_argument);
  EXPECT_THROW(SamplingOptions({.top_p = 0}).check(), std::invalid_argument);
  EXPECT_THROW(draw({1.0F}, {.top_p = 1.5}, 1), std::invalid_argument);
}

}  // namespace
}  // namespace gsa::kernels
