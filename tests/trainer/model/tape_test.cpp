// The arena and the tape, the flat parameters, and plans.
#include "trainer/model/tape.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <span>

#include "kernels/normal.h"
#include "tests/trainer/model/model_case.h"

namespace gsa::test {
namespace {

TEST(Tape, FramesGiveMemoryBack) {
  Tape tape(Device::cpu, 4096);
  tape.begin_frame();
  const Tensor first = tape.allocate(DType::float32, {4});
  tape.end_frame();
  EXPECT_EQ(tape.allocate(DType::float32, {4}).data(), first.data());
}

TEST(Tape, PopsInTheOppositeOrder) {
  Tape tape(Device::cpu, 4096);
  const Tensor a = tape.allocate(DType::float32, {4});
  const Tensor b = tape.allocate(DType::float32, {4});
  tape.push(a);
  tape.push(b);
  EXPECT_EQ(tape.pop().data(), b.data());
  EXPECT_EQ(tape.pop().data(), a.data());
  EXPECT_THROW(tape.pop(), std::logic_error);
}

TEST(Tape, ScratchNestsAndPeakCountsBothEnds) {
  Tape tape(Device::cpu, 4096);
  tape.allocate(DType::float32, {64});
  {
    Tape::Scratch outer(tape);
    const Tensor x = outer.tensor(DType::float32, {64});
    {
      Tape::Scratch inner(tape);
      EXPECT_NE(inner.tensor(DType::float32, {64}).data(), x.data());
    }
  }
  EXPECT_EQ(tape.peak().bytes(), 768U);
}

TEST(Tape, SaysWhenItWasPlannedTooSmall) {
  Tape tape(Device::cpu, 256);
  EXPECT_THROW(tape.allocate(DType::float32, {65}), std::logic_error);
}

TEST(Tape, TheTailEndsBelowTheScratchBesideItAndMeetsTheStack) {
  Tape planning = Tape::planning(Device::cpu);
  const auto pass = [](Tape& tape) {
    tape.begin_frame();
    tape.allocate(DType::byte, {1 << 22});
    tape.begin_frame();
    tape.allocate(DType::byte, {1 << 22});
    {
      const Tape::Scratch scratch(tape);
      tape.claim_tail(1 << 21);
    }
    tape.end_frame();
    tape.claim_tail(5 << 20);  // over what the frame held
    Tape::Scratch scratch(tape);
    scratch.tensor(DType::byte, {1 << 21});
    tape.end_frame();
  };
  pass(planning);
  const ArenaSize& size = planning.peak();
  EXPECT_EQ(size.without_tail, size_t{1} << 23);
  EXPECT_EQ(size.stack_and_tail, (size_t{1} << 23) + (size_t{1} << 21));
  EXPECT_EQ(size.scratch_beside_tail, size_t{1} << 21);

  Tape tape(Device::cpu, size);
  pass(tape);
  EXPECT_EQ(tape.peak(), size);
  tape.begin_frame();
  EXPECT_THROW(tape.allocate(DType::byte, {6 << 20}), std::logic_error);  // the tail is in use
  tape.end_frame();
  Tape::Scratch scratch(tape);
  EXPECT_THROW(scratch.tensor(DType::byte, {3 << 20}), std::logic_error);
}

TEST(Tape, AReleasedTailIsFree) {
  Tape tape(Device::cpu, ArenaSize{.stack_and_tail = 4096, .scratch_beside_tail = 1024});
  tape.claim_tail(4096);
  EXPECT_THROW(tape.allocate(DType::byte, {256}), std::logic_error);
  Tape again(Device::cpu, ArenaSize{.stack_and_tail = 4096, .scratch_beside_tail = 1024});
  again.claim_tail(4096);
  again.release_tail();
  EXPECT_NO_THROW(again.allocate(DType::byte, {4096}));
}

TEST(Engine, PlansExactlyWhatAPassUses) {
  ModelCase model(small_model(), Device::cpu, DType::float32);
  model.randomize(1);
  const HostSequences sequences(2, 70);
  const std::vector<int32_t> ids(140, 3);
  model.set_batch(ids, ids, {0, 70, 140});
  model.loss_and_gradients();
  const PassCost cost =
      plan_training(small_model(), model.engine().options(), sequences.view(Device::cpu));
  EXPECT_EQ(model.engine().tape().peak(), cost.arena);
  EXPECT_GT(cost.flops, 0);
}

TEST(Engine, RecomputationNeedsLessMemory) {
  ModelConfig config = small_model();
  config.layers = 8;
  const HostSequences sequences(2, 128);
  const EngineOptions kept{.memory = ParameterStore::Memory::planning};
  const auto arena_bytes = [&](Keep keep) {
    EngineOptions options = kept;
    options.keep = keep;
    return plan_training(config, options, sequences.view(Device::cpu)).arena.bytes();
  };
  EXPECT_LT(arena_bytes(Keep::input), arena_bytes(Keep::everything) / 2);
  EXPECT_LT(arena_bytes(Keep::input), arena_bytes(Keep::norm_inputs));
  EXPECT_LT(arena_bytes(Keep::norm_inputs), arena_bytes(Keep::everything));
}

TEST(Engine, GradientsLieOverActivationsOfATrainingModel) {
  ModelConfig config;
  config.layers = 24;
  config.hidden = 2048;
  config.heads = 4;
  const EngineOptions own{.memory = ParameterStore::Memory::planning};
  EngineOptions in_arena = own;
  in_arena.gradients = ParameterStore::Gradients::in_arena;
  const HostSequences sequences(8, 2048);
  const auto arena = [&](const EngineOptions& options) {
    return double(plan_training(config, options, sequences.view(Device::cpu)).arena.bytes());
  };
  ParameterStore parameters(Device::cpu, DType::float32, 1);
  const LanguageModel model(config, parameters);
  parameters.allocate(ParameterStore::Memory::planning);
  // All but the head's and the last block's, which meet everything that was kept.
  EXPECT_LT(arena(in_arena) - arena(own), 0.15 * double(parameters.gradient_tail(0)));
}

TEST(ParameterStore, BucketsDivideAmongTheRanks) {
  constexpr int ranks = 3;
  ParameterStore parameters(Device::cpu, DType::float32, ranks);
  const LanguageModel model(small_model(), parameters);
  parameters.allocate(ParameterStore::Memory::planning);
  EXPECT_EQ(parameters.buckets(), small_model().layers + 2);
  for (int bucket = 0; bucket < parameters.buckets(); ++bucket) {
    EXPECT_EQ((parameters.bucket_offset(bucket + 1) - parameters.bucket_offset(bucket)) % ranks, 0);
  }
}

TEST(ParameterStore, InitialValuesDependOnNothingButSeedNameAndIndex) {
  ParameterStore parameters(Device::cpu, DType::float32, 1);
  const LanguageModel model(small_model(), parameters);
  const ParameterInfo& embedding = parameters.parameters().front();
  const auto values = [&](int64_t begin, int64_t count) {
    std::vector<float> numbers(static_cast<size_t>(count));
    int32_t doubtful = -1;
    Stream stream(Device::cpu);
    kernels::normal_fill(stream,
                         {.key = initial_key(embedding, 1),
                          .begin = begin,
                          .std = 0.02,
                          .doubtful = {&doubtful, DType::int32, Device::cpu, {1}},
                          .output = {numbers.data(), DType::float32, Device::cpu, {count}}});
    EXPECT_EQ(doubtful, 0);
    return numbers;
  };
  const std::vector<float> whole = values(0, embedding.shape.count());
  const std::vector<float> part = values(57, 100);
  EXPECT_NE(initial_key(embedding, 1), initial_key(embedding, 2));
  EXPECT_NE(initial_key(embedding, 1), initial_key(parameters.parameters()[1], 1));
  EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + 57));
  double sum = 0;
  double squares = 0;
  for (const float value : whole) {
    sum += double(value);
    squares += double(value) * double(value);
  }
  const auto count = double(whole.size());
  EXPECT_NEAR(sum / count, 0, 0.003);
  EXPECT_NEAR(std::sqrt(squares / count), 0.02, 0.002);
}

}  // namespace
}  // namespace gsa::test
