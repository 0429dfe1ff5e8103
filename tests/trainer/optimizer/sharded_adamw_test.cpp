// What decides whether a step is applied is decided by all ranks alike.
#include "trainer/optimizer/sharded_adamw.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/optimizer.h"
#include "tests/distributed/mpi_test.h"
#include "tests/support/scratch.h"

namespace gsa {
namespace {

constexpr double tokens = 12;
constexpr double rate = 0.1;

// Weights in float32, and in bfloat16, where masters are split.
class ShardedAdamWTest : public ::testing::TestWithParam<DType> {
 protected:
  ShardedAdamWTest()
      : ranks_(testing::all_ranks()),
        store_(Device::cpu, GetParam(), ranks_->size()),
        totals_memory_(Device::cpu, 2 * sizeof(double)) {
    store_.begin_bucket();
    store_.add("matrix", {5, 3}, Initialization::normal);
    store_.begin_bucket();
    store_.add("norm", {7}, Initialization::ones);
    store_.allocate(ParameterStore::Memory::real);
    optimizer_.emplace(OptimizerConfig{}, store_, *ranks_, stream_.stream());
    optimizer_->initialize(1, 0.02);
  }

  // A step with these gradients on every rank, but on the last one with `odd` in one place.
  void step(double odd, double loss_sum, double limit = std::numeric_limits<double>::infinity()) {
    for (int bucket = 0; bucket < store_.buckets(); ++bucket) {
      optimizer_->begin_gradients(bucket);
    }
    const Tensor gradients = store_.all_gradients();
    std::fill_n(gradients.as<float>(), gradients.count(), 0.25F);
    if (ranks_->rank() == ranks_->size() - 1) {
      gradients.as<float>()[4] = static_cast<float>(odd);
    }
    for (int bucket = 0; bucket < store_.buckets(); ++bucket) {
      optimizer_->reduce(bucket);
    }
    const Tensor totals = totals_memory_.tensor(DType::float64, {2});
    totals.as<double>()[0] = loss_sum;
    totals.as<double>()[1] = tokens;
    optimizer_->update(rate, totals, tokens, limit);
    optimizer_->wait_for_all_weights();
  }
  std::vector<float> weights() {
    const Tensor all = store_.all_weights();
    std::vector<float> values(static_cast<size_t>(all.count()));
    kernels::convert(stream_, {.input = all, .output = floats(values)});
    return values;
  }
  static Tensor floats(std::vector<float>& values) {
    return {values.data(), DType::float32, Device::cpu, {static_cast<int64_t>(values.size())}};
  }
  bool applied() const { return std::isfinite(optimizer_->verdict().as<double>()[1]); }
  // Every rank says the same.
  void expect_everywhere(bool expected) {
    const std::string own = applied() ? "applied" : "skipped";
    EXPECT_EQ(applied(), expected);
    for (const std::string& theirs : ranks_->all_gather_text(own)) {
      EXPECT_EQ(theirs, own);
    }
  }

  std::unique_ptr<Communicator> ranks_;
  test::TestStream stream_;
  ParameterStore store_;
  Buffer totals_memory_;
  std::optional<ShardedAdamW> optimizer_;
};

TEST_P(ShardedAdamWTest, ASoundStepIsApplied) {
  const std::vector<float> before = weights();
  step(0.25, 30);
  expect_everywhere(true);
  EXPECT_NE(weights(), before);
  EXPECT_EQ(optimizer_->updates(), 1);
}

TEST_P(ShardedAdamWTest, OneGradientThatIsNotFiniteOnOneRankSkipsTheStepOnAll) {
  const std::vector<float> before = weights();
  for (const double odd : {std::nan(""), double(INFINITY)}) {
    step(odd, 30);
    expect_everywhere(false);
    EXPECT_EQ(weights(), before);
  }
}

TEST_P(ShardedAdamWTest, ALossAboveTheLimitSkipsTheStepOnAll) {
  const std::vector<float> before = weights();
  step(0.25, 30, 2.4);  // 30 / 12 = 2.5
  expect_everywhere(false);
  EXPECT_EQ(weights(), before);
  step(0.25, 30, 2.5);
  expect_everywhere(true);
  EXPECT_NE(weights(), before);
}

TEST_P(ShardedAdamWTest, ACopyOfTheStateIsOfTheUpdateBeforeIt) {
  step(0.25, 30);
  const auto count = static_cast<size_t>(optimizer_->shard_count());
  std::vector<float> master(count);
  std::vector<float> first(count);
  std::vector<float> second(count);
  optimizer_->copy_state(master, first, second);
  const std::vector<float> before = weights();
  step(0.25, 30);
  optimizer_->wait_for_state_copy();
  for (const ShardRange& range : optimizer_->ranges()) {
    const ParameterInfo& parameter = store_.parameters()[range.parameter];
    for (int64_t i = range.begin; i < range.end; ++i) {
      const auto held = static_cast<size_t>(range.offset + i - range.begin);
      const float weight = before[static_cast<size_t>(parameter.offset + i)];
      if (GetParam() == DType::bfloat16) {
        EXPECT_NEAR(master[held], weight, std::abs(weight) / 256);
      } else {
        EXPECT_EQ(master[held], weight);
      }
      EXPECT_NE(first[held], 0);
      EXPECT_GT(second[held], 0);
    }
  }
}

struct HostState {
  std::vector<float> master;
  std::vector<float> first;
  std::vector<float> second;

  explicit HostState(ShardedAdamW& optimizer)
      : master(static_cast<size_t>(optimizer.shard_count())), first(master), second(master) {
    optimizer.copy_state(master, first, second);
    optimizer.wait_for_state_copy();
  }
  bool operator==(const HostState&) const = default;
};

TEST_P(ShardedAdamWTest, AStateThatIsWrittenBackGoesOnAsTheFirstTime) {
  step(0.25, 30);
  const HostState before(*optimizer_);
  const std::vector<float> weights_before = weights();
  step(0.5, 30);
  const HostState after(*optimizer_);
  EXPECT_NE(after.master, before.master);
  optimizer_->write_state(before.master, before.first, before.second);
  optimizer_->set_updates(1);
  EXPECT_EQ(weights(), weights_before);
  EXPECT_EQ(HostState(*optimizer_), before);
  step(0.5, 30);
  EXPECT_EQ(HostState(*optimizer_), after);
}

INSTANTIATE_TEST_SUITE_P(Dtypes, ShardedAdamWTest,
                         ::testing::Values(DType::float32, DType::bfloat16),
                         [](const auto& suite) { return name_of(suite.param); });

// Masters on their way to the host come in pieces of 4 Mi.
TEST(ShardedAdamW, MastersInTwoPartsAreThoseThatWereWritten) {
  const std::unique_ptr<Communicator> ranks = testing::all_ranks();
  test::TestStream stream;
  ParameterStore store(Device::cpu, DType::bfloat16, ranks->size());
  store.begin_bucket();
  store.add("small", {3, 5}, Initialization::normal);
  store.begin_bucket();
  store.add("large", {2100, 2100}, Initialization::normal);
  store.allocate(ParameterStore::Memory::real);
  ShardedAdamW optimizer(OptimizerConfig{}, store, *ranks, stream.stream());
  optimizer.initialize(1, 0.02);
  const HostState initial(optimizer);
  EXPECT_EQ(initial.first, std::vector<float>(initial.first.size()));
  HostState other = initial;
  for (size_t i = 0; i < other.master.size(); ++i) {
    other.master[i] += float(i) * 1e-7F;
    other.first[i] = float(i);
  }
  optimizer.write_state(other.master, other.first, other.second);
  EXPECT_EQ(HostState(optimizer), other);
}

}  // namespace
}  // namespace gsa
