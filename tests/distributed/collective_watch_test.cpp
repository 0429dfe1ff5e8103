#include "trainer/distributed/collective_watch.h"

#include <gtest/gtest.h>

namespace gsa {
namespace {

using std::chrono::seconds;

class CollectiveWatchTest : public testing::Test {
 protected:
  void queue(const char* name, bool& done) {
    watch_.queued(
        name, [&done] { return done; }, now_);
  }
  std::optional<CollectiveWatch::Waiting> after(int more_seconds) {
    now_ += seconds(more_seconds);
    return watch_.look(now_);
  }

  CollectiveWatch watch_;
  CollectiveWatch::Time now_{};
};

TEST_F(CollectiveWatchTest, TellsWhichIsNextAndSinceWhen) {
  EXPECT_FALSE(after(1000));
  bool first = false;
  bool second = false;
  queue("reduce_scatter", first);
  queue("all_reduce", second);
  auto waiting = after(5);
  ASSERT_TRUE(waiting);
  EXPECT_EQ(waiting->name, "reduce_scatter");
  EXPECT_EQ(waiting->number, 1);
  EXPECT_EQ(waiting->seconds, 5);
  EXPECT_EQ(watch_.account(), "0 finished, next is reduce_scatter");

  first = true;
  waiting = after(5);
  ASSERT_TRUE(waiting);
  EXPECT_EQ(waiting->name, "all_reduce");
  EXPECT_EQ(waiting->number, 2);
  EXPECT_EQ(waiting->seconds, 0);  // it is the next since this look
  EXPECT_EQ(after(3)->seconds, 3);

  second = true;
  EXPECT_FALSE(after(1));
  EXPECT_EQ(watch_.account(), "2 finished, next is none");
}

TEST_F(CollectiveWatchTest, APauseWithoutCollectivesIsNoWait) {
  bool done = true;
  queue("all_gather", done);
  EXPECT_FALSE(after(1));
  bool late = false;
  now_ += seconds(10'000);
  queue("all_reduce", late);
  EXPECT_EQ(after(2)->seconds, 2);
}

TEST(CollectiveAccounts, AreReadBack) {
  CollectiveWatch watch;
  EXPECT_EQ(finished_in(watch.account()), 0);
  EXPECT_EQ(finished_in("41 finished, next is all_reduce"), 41);
  EXPECT_EQ(finished_in("gone"), -1);
}

}  // namespace
}  // namespace gsa
