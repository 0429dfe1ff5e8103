// What decides whether a step is applied is decided by all ranks alike.
#include "trainer/optimizer/sharded_adamw.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/distributed/mpi_test.h"
#include "tests/support/scratch.h"

namespace gsa {
namespace {

constexpr double tokens = 12;
constexpr double rate = 0.1;

class ShardedAdamWTest : public ::testing::Test {
 protected:
  ShardedAdamWTest()
      : ranks_(testing::all_ranks()),
        store_(Device::cpu, DType::float32, ranks_->size()),
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
  std::vector<float> weights() const {
    const Tensor all = store_.all_weights();
    return {all.as<float>(), all.as<float>() + all.count()};
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

TEST_F(ShardedAdamWTest, ASoundStepIsApplied) {
  const std::vector<float> before = weights();
  step(0.25, 30);
  expect_everywhere(true);
  EXPECT_NE(weights(), before);
  EXPECT_EQ(optimizer_->updates(), 1);
}

TEST_F(ShardedAdamWTest, OneGradientThatIsNotFiniteOnOneRankSkipsTheStepOnAll) {
  const std::vector<float> before = weights();
  for (const double odd : {std::nan(""), double(INFINITY)}) {
    step(odd, 30);
    expect_everywhere(false);
    EXPECT_EQ(weights(), before);
  }
}

TEST_F(ShardedAdamWTest, ALossAboveTheLimitSkipsTheStepOnAll) {
  const std::vector<float> before = weights();
  step(0.25, 30, 2.4);  // 30 / 12 = 2.5
  expect_everywhere(false);
  EXPECT_EQ(weights(), before);
  step(0.25, 30, 2.5);
  expect_everywhere(true);
  EXPECT_NE(weights(), before);
}

TEST_F(ShardedAdamWTest, ACopyOfTheStateIsOfTheUpdateBeforeIt) {
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
      EXPECT_EQ(master[held], before[static_cast<size_t>(parameter.offset + i)]);
      EXPECT_NE(first[held], 0);
      EXPECT_GT(second[held], 0);
    }
  }
}

}  // namespace
}  // namespace gsa
