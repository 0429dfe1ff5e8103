// The model's gradients against central differences in double precision, for every parameter kind,
// and what must not change them: recomputation, accumulation, the way sequences are packed.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/cross_entropy.h"
#include "tests/support/numeric.h"
#include "tests/trainer/model/model_case.h"

namespace gsa::test {
namespace {

constexpr int64_t token_count = 70;  // a chunk and a bit, in three sequences
const std::vector<int32_t> offsets = {0, 3, 68, 70};

void set_random_batch(ModelCase& model, uint64_t seed) {
  Random random(seed);
  const auto vocabulary = static_cast<int32_t>(model.engine().model().config().vocabulary);
  std::vector<int32_t> tokens;
  std::vector<int32_t> labels;
  for (int64_t i = 0; i < token_count; ++i) {
    tokens.push_back(random.integer(vocabulary));
    labels.push_back(i % 9 == 4 ? kernels::ignored_label : random.integer(vocabulary));
  }
  model.set_batch(tokens, labels, offsets);
}

// Along one random direction of a parameter: two losses say what its gradient must give.
void expect_directional_derivative(ModelCase& model, const std::string& name,
                                   const std::vector<double>& gradient) {
  constexpr double step = 1e-5;
  // The loss has rounding of 1e-16 over the step, and the step squared times third derivatives.
  constexpr double tolerance = 1e-7;
  const std::vector<double> values = model.weight(name);
  Random random(values.size());
  const std::vector<double> direction =
      random.uniform_values(static_cast<int64_t>(values.size()), -1, 1);
  const auto loss_at = [&](double distance) {
    std::vector<double> moved = values;
    for (size_t i = 0; i < moved.size(); ++i) {
      moved[i] += distance * direction[i];
    }
    model.set_weight(name, moved);
    return model.loss();
  };
  const double measured = (loss_at(step) - loss_at(-step)) / (2 * step);
  model.set_weight(name, values);
  const double expected = dot(gradient, direction);
  EXPECT_NEAR(measured, expected, tolerance * (1 + std::abs(expected))) << name;
}

void expect_gradients_match(const ModelConfig& config) {
  ModelCase model(config, Device::cpu, DType::float64);
  model.randomize(1);
  set_random_batch(model, 2);
  model.zero_gradients();
  model.loss_and_gradients();
  for (const std::string& name : model.names()) {
    expect_directional_derivative(model, name, model.gradient(name));
  }
}

TEST(LanguageModel, GradientsMatchCentralDifferences) {
  expect_gradients_match(small_model());
}

TEST(LanguageModel, GradientsMatchCentralDifferencesWithTiedEmbeddings) {
  ModelConfig config = small_model();
  config.tie_embeddings = true;
  expect_gradients_match(config);
}

TEST(LanguageModel, GradientsMatchCentralDifferencesWithoutNormWeight) {
  ModelConfig config = small_model();
  config.elementwise_affine = false;
  config.kv_heads = config.heads;
  expect_gradients_match(config);
}

TEST(LanguageModel, RecomputationGivesTheSameBits) {
  ModelCase kept(small_model(), Device::cpu, DType::float32, Keep::everything);
  ModelCase norms_again(small_model(), Device::cpu, DType::float32, Keep::norm_inputs);
  ModelCase recomputed(small_model(), Device::cpu, DType::float32, Keep::input);
  for (ModelCase* model : {&kept, &norms_again, &recomputed}) {
    model->randomize(3);
    set_random_batch(*model, 4);
    model->zero_gradients();
  }
  const double loss = kept.loss_and_gradients();
  for (ModelCase* model : {&norms_again, &recomputed}) {
    EXPECT_EQ(model->loss_and_gradients(), loss);
    for (const std::string& name : kept.names()) {
      EXPECT_EQ(model->gradient(name), kept.gradient(name)) << name;
    }
  }
}

// Gradients over activations that are no longer needed: the same bits, whatever ran in the arena
// before.
void expect_same_in_arena(const ModelConfig& config, Keep keep) {
  using Gradients = ParameterStore::Gradients;
  ModelCase own(config, Device::cpu, DType::float32, keep);
  ModelCase in_arena(config, Device::cpu, DType::float32, keep, Gradients::in_arena);
  own.randomize(3);
  in_arena.randomize(3);
  for (const int64_t seed : {4, 5}) {
    set_random_batch(own, seed);
    set_random_batch(in_arena, seed);
    own.zero_gradients();
    in_arena.loss();  // where gradients of the step before are
    EXPECT_EQ(own.loss_and_gradients(), in_arena.loss_and_gradients());
    for (const std::string& name : own.names()) {
      EXPECT_EQ(own.gradient(name), in_arena.gradient(name)) << name;
    }
  }
}

// As many layers as it takes for the tail to reach what the first blocks kept.
ModelConfig deep_model() {
  ModelConfig config = small_model();
  config.layers = 8;
  return config;
}

TEST(LanguageModel, GradientsInTheArenaAreTheSameBits) {
  expect_same_in_arena(deep_model(), Keep::everything);
}

TEST(LanguageModel, GradientsInTheArenaAreTheSameBitsWithRecomputation) {
  expect_same_in_arena(deep_model(), Keep::norm_inputs);
  expect_same_in_arena(deep_model(), Keep::input);
}

TEST(LanguageModel, GradientsInTheArenaAreTheSameBitsWithTiedEmbeddings) {
  ModelConfig config = deep_model();
  config.tie_embeddings = true;
  expect_same_in_arena(config, Keep::everything);
}

// Norms and sums over ranks go over whole buckets.
TEST(ParameterStore, PaddingOfGradientsInTheArenaIsZero) {
  ParameterStore parameters(Device::cpu, DType::float32, 7);
  for (int bucket = 0; bucket < 2; ++bucket) {
    parameters.begin_bucket();
    parameters.add("norm" + std::to_string(bucket), {5}, Initialization::ones);
    parameters.add("matrix" + std::to_string(bucket), {3, 3}, Initialization::normal);
  }
  parameters.allocate(ParameterStore::Memory::real, ParameterStore::Gradients::in_arena);
  constexpr float left = 3;
  const size_t bytes = parameters.gradient_tail(0);
  std::vector<float> memory(bytes / sizeof(float), left);
  parameters.place_gradients(reinterpret_cast<std::byte*>(memory.data()) + bytes);
  Stream stream(Device::cpu);
  for (int bucket = 0; bucket < 2; ++bucket) {
    parameters.begin_gradients(stream, bucket);
  }
  std::vector<char> is_matrix(size_t(parameters.flat_count()), 0);
  for (const ParameterInfo& info : parameters.parameters()) {
    if (info.initialization == Initialization::normal) {
      std::fill_n(is_matrix.begin() + info.offset, info.shape.count(), 1);
    }
  }
  for (size_t i = 0; i < is_matrix.size(); ++i) {
    EXPECT_EQ(memory[i], is_matrix[i] != 0 ? left : 0.0F) << i;
  }
}

TEST(LanguageModel, GradientsAccumulate) {
  ModelCase model(small_model(), Device::cpu, DType::float64);
  model.randomize(5);
  set_random_batch(model, 6);
  model.zero_gradients();
  model.loss_and_gradients();
  std::vector<std::vector<double>> once;
  for (const std::string& name : model.names()) {
    once.push_back(model.gradient(name));
  }
  model.loss_and_gradients();
  for (size_t i = 0; i < once.size(); ++i) {
    for (double& value : once[i]) {
      value *= 2;
    }
    EXPECT_LT(relative_error(model.gradient(model.names()[i]), once[i]), double_tolerance);
  }
}

TEST(LanguageModel, PackedSequencesAreSeparate) {
  ModelCase packed(small_model(), Device::cpu, DType::float64);
  packed.randomize(7);
  std::vector<int32_t> tokens;
  Random random(8);
  for (int64_t i = 0; i < token_count; ++i) {
    tokens.push_back(random.integer(static_cast<int32_t>(small_model().vocabulary)));
  }
  packed.set_batch(tokens, tokens, offsets);
  const std::vector<double> together = packed.logits();
  std::vector<double> apart;
  for (size_t i = 0; i + 1 < offsets.size(); ++i) {
    const std::vector<int32_t> one(tokens.begin() + offsets[i], tokens.begin() + offsets[i + 1]);
    packed.set_batch(one, one, {0, offsets[i + 1] - offsets[i]});
    const std::vector<double> logits = packed.logits();
    apart.insert(apart.end(), logits.begin(), logits.end());
  }
  EXPECT_LT(relative_error(together, apart), double_tolerance);
}

TEST(LanguageModel, LossIsTheMeanOverLabelsThatCount) {
  ModelCase model(small_model(), Device::cpu, DType::float64);
  model.randomize(9);
  set_random_batch(model, 10);
  model.zero_gradients();
  EXPECT_NEAR(model.loss(), model.loss_and_gradients(), 1e-14);
}

}  // namespace
}  // namespace gsa::test
