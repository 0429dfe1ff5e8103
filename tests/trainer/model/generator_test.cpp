// Generation: the recurrent form against the chunked one, and the choice of tokens.
#include "trainer/model/generator.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/support/numeric.h"
#include "tests/trainer/model/model_case.h"

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

  Generator generator(model.engine(), {.sequences = 1});
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
  Generator both(model.engine(), {.sequences = 2});
  both.read(prompts);
  const auto together = both.step(next);
  const std::vector<double> pair(together.begin(), together.end());
  std::vector<double> apart;
  for (size_t i = 0; i < prompts.size(); ++i) {
    Generator one(model.engine(), {});
    one.read({prompts[i]});
    const auto logits = one.step(std::span(&next[i], 1));
    apart.insert(apart.end(), logits.begin(), logits.end());
  }
  EXPECT_LT(relative_error(pair, apart), form_tolerance);
}

// The devices and precisions that this machine can test.
struct Target {
  Device device;
  DType dtype;
  double tolerance;  // of the decode step against the recurrent form
};

std::vector<Target> targets() {
  // bfloat16 rounds in other places through a few layers.
  constexpr double rounding = 3e-2;
  std::vector<Target> targets = {{Device::cpu, DType::float32, form_tolerance},
                                 {Device::cpu, DType::float64, form_tolerance}};
  if (cuda_device_count() > 0) {
    targets.push_back({Device::cuda, DType::float32, form_tolerance});
    targets.push_back({Device::cuda, DType::bfloat16, rounding});
  }
  return targets;
}

std::vector<std::vector<int32_t>> some_prompts() {
  return {random_tokens(9, 11), random_tokens(70, 12), random_tokens(1, 13)};
}

TEST(Generator, DecodeStepsGiveTheLogitsOfTheRecurrentForm) {
  for (const Target& target : targets()) {
    ModelCase model(small_model(), target.device, target.dtype);
    model.randomize(21);
    Generator fast(model.engine(), {.sequences = 3});
    Generator reference(model.engine(), {.sequences = 3, .form = StepForm::recurrent});
    fast.read(some_prompts());
    reference.read(some_prompts());
    for (uint64_t i = 0; i < 6; ++i) {
      const std::vector<int32_t> tokens = random_tokens(3, 30 + i);
      const auto got = fast.step(tokens);
      const auto expected = reference.step(tokens);
      EXPECT_LT(relative_error({got.begin(), got.end()}, {expected.begin(), expected.end()}),
                target.tolerance)
          << name_of(target.device) << " " << name_of(target.dtype) << " step " << i;
    }
  }
}

// Steps that write each layer's states now and then, over more than three such times; a prompt that
// comes after them finds fresh states.
TEST(Generator, StepsThatKeepTokensGiveTheLogitsOfTheRecurrentForm) {
  for (const Target& target : targets()) {
    for (const int64_t period : {2, 5, 8}) {
      ModelCase model(small_model(), target.device, target.dtype);
      model.randomize(25);
      Generator keeping(model.engine(), {.sequences = 3, .state_period = period});
      Generator reference(model.engine(), {.sequences = 3, .form = StepForm::recurrent});
      uint64_t seed = 100;
      for (const int64_t steps : {period + 1, 3 * period + 2}) {
        keeping.read(some_prompts());
        reference.read(some_prompts());
        for (int64_t i = 0; i < steps; ++i) {
          const std::vector<int32_t> tokens = random_tokens(3, ++seed);
          const auto got = keeping.step(tokens);
          const auto expected = reference.step(tokens);
          EXPECT_LT(relative_error({got.begin(), got.end()}, {expected.begin(), expected.end()}),
                    target.tolerance)
              << name_of(target.device) << " " << name_of(target.dtype) << " period " << period
              << " step " << i;
        }
      }
    }
  }
}

// The text that a generator writes.
std::vector<std::vector<int32_t>> written(Engine& engine, const GeneratorOptions& options,
                                          const std::vector<std::vector<int32_t>>& prompts,
                                          int count) {
  Generator generator(engine, options);
  generator.start(prompts);
  std::vector<std::vector<int32_t>> texts(prompts.size());
  for (int i = 0; i < count; ++i) {
    const auto tokens = generator.next();
    for (size_t n = 0; n < texts.size(); ++n) {
      texts[n].push_back(tokens[n]);
    }
  }
  return texts;
}

const kernels::SamplingOptions mixed_sampling{
    .temperature = 0.8, .top_k = 30, .top_p = 0.9, .seed = 5};

TEST(Generator, RecordedStepsWriteWhatSingleOnesDo) {
  constexpr int count = 20;
  for (const Target& target : targets()) {
    ModelCase model(small_model(), target.device, target.dtype);
    model.randomize(22);
    const auto prompts = some_prompts();
    for (const int64_t period : {1, 3}) {
      const auto text = written(
          model.engine(), {.sequences = 3, .sampling = {.temperature = 0}, .state_period = period},
          prompts, count);
      Generator single(model.engine(), {.sequences = 3, .state_period = period});
      auto logits = single.read(prompts);
      const size_t vocabulary = logits.size() / prompts.size();
      for (size_t i = 0; i < count; ++i) {
        std::vector<int32_t> tokens;
        for (size_t n = 0; n < prompts.size(); ++n) {
          const auto row = logits.subspan(n * vocabulary, vocabulary);
          tokens.push_back(
              static_cast<int32_t>(std::max_element(row.begin(), row.end()) - row.begin()));
          EXPECT_EQ(text[n][i], tokens[n]) << name_of(target.device) << " token " << i;
        }
        logits = single.step(tokens);
      }
    }
  }
}

TEST(Generator, TheSameSeedWritesTheSameText) {
  constexpr int count = 25;
  for (const Target& target : targets()) {
    ModelCase model(small_model(), target.device, target.dtype);
    model.randomize(23);
    const GeneratorOptions options{.sequences = 3, .sampling = mixed_sampling};
    EXPECT_EQ(written(model.engine(), options, some_prompts(), count),
              written(model.engine(), options, some_prompts(), count));
  }
}

TEST(Generator, ATextIsTheSameInAnyBatch) {
  constexpr int count = 25;
  ModelCase model(small_model(), Device::cpu, DType::float32);
  model.randomize(23);
  const auto prompts = some_prompts();
  const auto together =
      written(model.engine(), {.sequences = 3, .sampling = mixed_sampling}, prompts, count);
  for (size_t n = 0; n < prompts.size(); ++n) {
    const GeneratorOptions alone{.sampling = mixed_sampling,
                                 .first_sequence = static_cast<int64_t>(n)};
    EXPECT_EQ(written(model.engine(), alone, {prompts[n]}, count).front(), together[n]) << n;
  }
}

TEST(Generator, DrawsOnlyWhatMayBeChosen) {
  constexpr int64_t choices = 3;
  ModelCase model(small_model(), Device::cpu, DType::float32);
  model.randomize(24);
  const auto texts =
      written(model.engine(), {.sequences = 3, .choices = choices}, some_prompts(), 40);
  for (const auto& text : texts) {
    EXPECT_LT(*std::max_element(text.begin(), text.end()), choices);
  }
}

TEST(Generator, RefusesWhatItCannotWrite) {
  ModelCase model(small_model(), Device::cpu, DType::float32);
  EXPECT_THROW(Generator(model.engine(), {.sequences = 0}), std::invalid_argument);
  EXPECT_THROW(Generator(model.engine(), {.sampling = {.top_p = 0}}), std::invalid_argument);
  Generator generator(model.engine(), {.sequences = 2});
  EXPECT_THROW(generator.read({{1}}), std::invalid_argument);
  EXPECT_THROW(generator.read({{1}, {}}), std::invalid_argument);
  EXPECT_THROW(generator.next(), std::logic_error);
}

}  // namespace
}  // namespace gsa::test
