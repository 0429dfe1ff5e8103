// Generation: the recurrent form against the chunked one, and the choice of tokens.
#include "trainer/model/generator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/support/numeric.h"
#include "tests/trainer/model/model_case.h"
#include "trainer/model/sampler.h"

namespace gsa::test {
namespace {

// Single precision through a few layers, two orders of summation.
constexpr double form_tolerance = 1e-5;

std::vector<int32_t> random_tokens(size_t count, uint64_t seed) {
  Random random(seed);
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) {
    token = random.integer(static_cast<int32_t>(small_model().vocabulary));
  }
  return tokens;
}

TEST(Generator, PromptThenStepsGiveTheLogitsOfOneChunkedPass) {
  constexpr size_t prompt = 77;
  constexpr size_t total = 90;
  ModelCase model(small_model(), Device::cpu, DType::float32);
  model.randomize(1);
  const std::vector<int32_t> tokens = random_tokens(total, 2);
  model.set_batch(tokens, tokens, {0, static_cast<int32_t>(total)});
  const std::vector<double> all = model.logits();
  const auto expected = [&](size_t position) {
    const auto vocabulary = static_cast<size_t>(small_model().vocabulary);
    const auto begin = all.begin() + static_cast<long>(position * vocabulary);
    return std::vector<double>(begin, begin + static_cast<long>(vocabulary));
  };

  Generator generator(model.engine(), 1);
  auto logits = generator.read({{tokens.begin(), tokens.begin() + prompt}});
  EXPECT_LT(relative_error({logits.begin(), logits.end()}, expected(prompt - 1)), form_tolerance);
  const size_t state_bytes = generator.state_bytes();
  for (size_t i = prompt; i < total; ++i) {
    logits = generator.step(std::span(&tokens[i], 1));
    EXPECT_LT(relative_error({logits.begin(), logits.end()}, expected(i)), form_tolerance) << i;
  }
  EXPECT_EQ(generator.state_bytes(), state_bytes);
}

TEST(Generator, SequencesSideBySideAreIndependent) {
  ModelCase model(small_model(), Device::cpu, DType::float32);
  model.randomize(3);
  const std::vector<std::vector<int32_t>> prompts = {random_tokens(5, 4), random_tokens(66, 5)};
  const std::vector<int32_t> next = {1, 2};
  Generator both(model.engine(), 2);
  both.read(prompts);
  const auto together = both.step(next);
  const std::vector<double> pair(together.begin(), together.end());
  std::vector<double> apart;
  for (size_t i = 0; i < prompts.size(); ++i) {
    Generator one(model.engine(), 1);
    one.read({prompts[i]});
    const auto logits = one.step(std::span(&next[i], 1));
    apart.insert(apart.end(), logits.begin(), logits.end());
  }
  EXPECT_LT(relative_error(pair, apart), form_tolerance);
}

TEST(Sampler, TemperatureZeroTakesTheMostProbable) {
  Sampler sampler({.temperature = 0});
  EXPECT_EQ(sampler.sample(std::vector<float>{0.5F, 3.0F, 2.0F}), 1);
}

TEST(Sampler, SameSeedGivesTheSameTokens) {
  const std::vector<float> logits = {1.0F, 0.5F, 0.2F, 2.0F, -1.0F};
  Sampler first({.seed = 7});
  Sampler second({.seed = 7});
  for (int i = 0; i < 50; ++i) {
    EXPECT_EQ(first.sample(logits), second.sample(logits));
  }
}

TEST(Sampler, DrawsInProportion) {
  constexpr int draws = 20000;
  constexpr double three_sigma = 0.011;
  Sampler sampler({.seed = 8});
  const std::vector<float> logits = {std::log(0.2F), std::log(0.5F), std::log(0.3F)};
  std::vector<int> counts(3, 0);
  for (int i = 0; i < draws; ++i) {
    ++counts[static_cast<size_t>(sampler.sample(logits))];
  }
  EXPECT_NEAR(counts[0] / double(draws), 0.2, three_sigma);
  EXPECT_NEAR(counts[1] / double(draws), 0.5, three_sigma);
}

TEST(Sampler, TopKAndTopPCutTheTail) {
  const std::vector<float> logits = {std::log(0.5F), std::log(0.3F), std::log(0.15F),
                                     std::log(0.05F)};
  Sampler top_k({.top_k = 2, .seed = 9});
  Sampler top_p({.top_p = 0.75, .seed = 9});
  for (int i = 0; i < 500; ++i) {
    EXPECT_LT(top_k.sample(logits), 2);
    EXPECT_LT(top_p.sample(logits), 2);
  }
}

TEST(Sampler, RefusesOptionsOutOfRange) {
  EXPECT_THROW(Sampler({.temperature = -1}), std::invalid_argument);
  EXPECT_THROW(Sampler({.top_k = -1}), std::invalid_argument);
  EXPECT_THROW(Sampler({.top_p = 0}), std::invalid_argument);
}

}  // namespace
}  // namespace gsa::test
