#include <gtest/gtest.h>

#include "trainer/config/config.h"
#include "trainer/config/error.h"

namespace gsa {
namespace {

Config config_with(int64_t tokens, int64_t batch_tokens) {
  Config config;
  config.train.tokens = tokens;
  config.train.batch_tokens = batch_tokens;
  config.train.micro_batch = 8;
  config.data.sequence_length = 2048;
  return config;
}

TEST(ResolveBatch, SplitsAStepOverRanksAndMicroBatches) {
  const BatchPlan plan = resolve_batch(config_with(100'000'000'000, 524'288), 8);
  EXPECT_EQ(plan.accumulation, 4);
  EXPECT_EQ(plan.tokens_per_step, 524'288);
  EXPECT_EQ(plan.steps, 190'735);  // 190,734.9: the last step passes the budget
}

TEST(ResolveBatch, ZeroIsOneMicroBatchARank) {
  const BatchPlan plan = resolve_batch(config_with(65'536, 0), 2);
  EXPECT_EQ(plan.accumulation, 1);
  EXPECT_EQ(plan.tokens_per_step, 32'768);
  EXPECT_EQ(plan.steps, 2);
}

TEST(ResolveBatch, WhatDoesNotDivideIsRefusedWithTheNearestThatDoes) {
  try {
    resolve_batch(config_with(1'000'000, 500'000), 8);
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_STREQ(
        error.what(),
        "train.batch_tokens must be a multiple of micro_batch x sequence_length x ranks = 8 "
        "x 2048 x 8 = 131072 (got 500000); set train.batch_tokens=524288 or another "
        "train.micro_batch");
  }
  EXPECT_THROW(resolve_batch(config_with(1'000'000, 16), 8), ConfigError);
  EXPECT_THROW(resolve_batch(config_with(1'000'000, 0), 0), ConfigError);
}

TEST(ModelConfig, DerivedSizesAreThoseOfThePublishedModels) {
  ModelConfig model;
  for (const auto& [hidden, width] :
       {std::pair{1024, 2816}, {2048, 5632}, {2560, 6912}, {192, 512}}) {
    model.hidden = hidden;
    EXPECT_EQ(model.resolved_intermediate(), width) << hidden;
  }
  model.intermediate = 14336;
  EXPECT_EQ(model.resolved_intermediate(), 14336);
  EXPECT_EQ(model.resolved_kv_heads(), model.heads);
  model.kv_heads = 2;
  EXPECT_EQ(model.resolved_kv_heads(), 2);
}

}  // namespace
}  // namespace gsa
