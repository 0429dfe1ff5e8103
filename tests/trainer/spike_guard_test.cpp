#include "trainer/spike_guard.h"

#include <gtest/gtest.h>

#include <cmath>

namespace gsa {
namespace {

TEST(SpikeGuard, LimitsTheLossToTheFactorTimesTheMedian) {
  SpikeGuard guard(2, 4);
  for (const double loss : {5.0, 1.0, 100.0}) {
    guard.applied(loss);
    EXPECT_TRUE(std::isinf(guard.limit())) << "not yet known";
  }
  guard.applied(3);
  EXPECT_EQ(guard.limit(), 2 * 4.0);  // of 1 3 5 100
  guard.applied(3.5);                 // of 1 3 3.5 100
  EXPECT_EQ(guard.limit(), 2 * 3.25);
}

TEST(SpikeGuard, OfAnOddNumberTheMiddleOneCounts) {
  SpikeGuard guard(1.5, 3);
  for (const double loss : {9.0, 2.0, 4.0}) {
    guard.applied(loss);
  }
  EXPECT_EQ(guard.limit(), 6);
}

TEST(SpikeGuard, WithoutAFactorThereIsNoLimitButAMemory) {
  SpikeGuard guard(0, 2);
  for (const double loss : {1.0, 2.0, 3.0}) {
    guard.applied(loss);
  }
  EXPECT_TRUE(std::isinf(guard.limit()));
  EXPECT_EQ(guard.recent(), (std::vector<double>{2, 3}));
}

TEST(SpikeGuard, RestoredItGivesTheSameLimits) {
  SpikeGuard whole(3, 5);
  SpikeGuard parts(3, 5);
  for (int step = 0; step < 20; ++step) {
    const double loss = 1.0 / (step % 7 + 3);
    whole.applied(loss);
    SpikeGuard next(3, 5);
    next.restore(parts.recent());
    next.applied(loss);
    parts = next;
    EXPECT_EQ(parts.limit(), whole.limit());
  }
  SpikeGuard narrow(3, 2);  // of more losses than it keeps, the newest
  narrow.restore(whole.recent());
  const std::vector<double> all = whole.recent();
  EXPECT_EQ(narrow.recent(), (std::vector<double>(all.end() - 2, all.end())));
}

}  // namespace
}  // namespace gsa
