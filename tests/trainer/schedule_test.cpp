#include "trainer/optimizer/schedule.h"

#include <gtest/gtest.h>

#include "trainer/config/error.h"

namespace gsa {
namespace {

constexpr int64_t kBudget = 100'000;
constexpr int64_t kWarmup = 10'000;
constexpr double kPeak = 3e-4;
constexpr double kFinal = 3e-5;
// Rates are a handful of float64 operations from their exact values.
constexpr double kRounding = 1e-18;

double rate(const std::string& kind, int64_t tokens, int64_t warmup = kWarmup) {
  ScheduleConfig schedule;
  schedule.kind = kind;
  schedule.warmup_tokens = warmup;
  schedule.final_lr = kFinal;
  schedule.decay_tokens = 20'000;
  OptimizerConfig optimizer;
  optimizer.lr = kPeak;
  return learning_rate(schedule, optimizer, kBudget, tokens);
}

TEST(Schedule, WarmsUpLinearlyFromZero) {
  for (const char* kind : {"cosine", "wsd", "constant"}) {
    EXPECT_EQ(rate(kind, 0), 0.0) << kind;
    EXPECT_NEAR(rate(kind, kWarmup / 4), kPeak / 4, kRounding) << kind;
    EXPECT_LT(rate(kind, kWarmup - 1), kPeak) << kind;
    EXPECT_NEAR(rate(kind, kWarmup), kPeak, kRounding) << kind;
    EXPECT_NEAR(rate(kind, 0, 0), kPeak, kRounding) << kind;
  }
}

TEST(Schedule, CosineFallsToTheFinalRateAtTheBudget) {
  EXPECT_NEAR(rate("cosine", (kWarmup + kBudget) / 2), (kPeak + kFinal) / 2, kRounding);
  EXPECT_EQ(rate("cosine", kBudget), kFinal);
  EXPECT_EQ(rate("cosine", kBudget + 1), kFinal);
  double before = kPeak;
  for (int64_t tokens = kWarmup + 1000; tokens <= kBudget; tokens += 1000) {
    EXPECT_LT(rate("cosine", tokens), before);
    before = rate("cosine", tokens);
  }
}

TEST(Schedule, WsdStaysAndThenFallsLinearly) {
  EXPECT_EQ(rate("wsd", kWarmup + 1), kPeak);
  EXPECT_EQ(rate("wsd", 80'000), kPeak);
  EXPECT_LT(rate("wsd", 80'001), kPeak);
  EXPECT_NEAR(rate("wsd", 90'000), (kPeak + kFinal) / 2, kRounding);
  EXPECT_EQ(rate("wsd", kBudget), kFinal);
  EXPECT_EQ(rate("wsd", 2 * kBudget), kFinal);
}

TEST(Schedule, ConstantStays) {
  EXPECT_EQ(rate("constant", kWarmup), kPeak);
  EXPECT_EQ(rate("constant", kBudget), kPeak);
  EXPECT_EQ(rate("constant", 2 * kBudget), kPeak);
}

TEST(Schedule, AnUnknownKindIsRefused) {
  EXPECT_THROW(rate("linear", kWarmup), ConfigError);
}

}  // namespace
}  // namespace gsa
