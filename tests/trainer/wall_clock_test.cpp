#include "trainer/wall_clock.h"

#include <gtest/gtest.h>

namespace gsa {
namespace {

constexpr double gigabyte = 1e9;

TEST(WallClock, WithoutALimitItIsNeverUp) {
  const WallClock clock(0, gigabyte);
  EXPECT_FALSE(clock.is_up(1e9));
}

TEST(WallClock, KeepsBackTheLongestStepAndTwoCheckpoints) {
  WallClock clock(1000, 0);
  clock.step_took(30);
  clock.step_took(10);
  const double idle = clock.reserve();
  EXPECT_GT(idle, 30);
  clock.checkpoint_took(50);
  clock.checkpoint_took(20);
  EXPECT_DOUBLE_EQ(clock.reserve(), idle + 2 * 50);
  EXPECT_FALSE(clock.is_up(1000 - clock.reserve() - 1));
  EXPECT_TRUE(clock.is_up(1000 - clock.reserve()));
}

TEST(WallClock, GuessesACheckpointsTimeFromItsSizeUntilOneWasWritten) {
  WallClock clock(1000, 2 * gigabyte);
  EXPECT_GT(clock.reserve(), 2 * 10);  // a disk of 200 MB/s would do it in 10 s
  clock.checkpoint_took(1);
  EXPECT_LT(clock.reserve(), 10);
}

TEST(WallClock, KnowsTheAgeOfThisProcess) {
  const double first = process_age();
  EXPECT_GE(first, 0);
  EXPECT_LT(first, 24.0 * 3600);
  EXPECT_GE(process_age(), first);
}

}  // namespace
}  // namespace gsa
