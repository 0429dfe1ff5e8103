// What remains possible when ranks are missing.
#include "trainer/distributed/mpi_group.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/distributed/mpi_test.h"
#include "trainer/distributed/communicator.h"

namespace gsa {
namespace {

using testing::test_timeout_seconds;

TEST(RollCall, BringsTheTextsOfAllWhoAreThere) {
  MpiGroup group(test_timeout_seconds);
  const auto texts = group.roll_call("rank " + std::to_string(group.rank()), test_timeout_seconds);
  ASSERT_EQ(texts.size(), static_cast<size_t>(group.size()));
  for (int rank = 0; rank < group.size(); ++rank) {
    EXPECT_EQ(texts[static_cast<size_t>(rank)], "rank " + std::to_string(rank));
  }
  EXPECT_THROW(group.barrier(), CommunicationError);  // what broke stays broken
}

TEST(RollCall, KnowsWhoDoesNotAnswer) {
  MpiGroup group(test_timeout_seconds);
  MpiGroup afterwards(test_timeout_seconds);
  const int absent = group.size() - 1;
  constexpr double patience = 0.5;  // on its messages to itself, which nobody sends
  if (group.rank() != absent) {
    const auto texts = group.roll_call("here", patience);
    for (int rank = 0; rank < absent; ++rank) {
      // The others may have called later than this rank's patience lasted, but not the absent one.
      EXPECT_TRUE(!texts[static_cast<size_t>(rank)] || texts[static_cast<size_t>(rank)] == "here");
    }
    EXPECT_EQ(texts[static_cast<size_t>(group.rank())], "here");
    EXPECT_FALSE(texts[static_cast<size_t>(absent)]);
  }
  afterwards.barrier();
  if (group.rank() == absent) {  // too late for the others, whose texts are there
    const auto texts = group.roll_call("late", test_timeout_seconds);
    EXPECT_EQ(texts[0], "here");
  }
}

TEST(RollCall, CutsLongTexts) {
  MpiGroup group(test_timeout_seconds);
  const auto texts = group.roll_call(std::string(1000, 'x'), test_timeout_seconds);
  const auto other = static_cast<size_t>(group.rank() == 0 ? 1 : 0);
  EXPECT_EQ(texts[other], std::string(MpiGroup::roll_call_bytes - 1, 'x'));
}

TEST(MpiGroup, NamesTheRankBehindTheOneThatItWaitsFor) {
  if (testing::mpi().size() < 3) {
    GTEST_SKIP() << "takes three ranks";
  }
  constexpr double short_timeout_seconds = 0.5;
  MpiGroup group(short_timeout_seconds);
  MpiGroup afterwards(test_timeout_seconds);
  const int last = group.size() - 1;
  if (group.rank() != last) {  // each waits for the next one, and the last comes not at all
    std::byte received{};
    const IncomingMessage incoming{group.rank() + 1, &received, 1};
    try {
      group.exchange(Collective::all_reduce, {}, {&incoming, 1});
      ADD_FAILURE() << "a message that nobody sent";
    } catch (const LostRanksError& error) {
      EXPECT_THAT(error.what(), ::testing::HasSubstr(" s for rank " + std::to_string(last) + ";"));
    }
  }
  afterwards.barrier();
}

TEST(MpiGroup, TellsWhereOthersWaitThatCallSomethingElse) {
  constexpr double short_timeout_seconds = 0.5;
  MpiGroup group(short_timeout_seconds);
  std::byte received{};
  const int other = (group.rank() + 1) % group.size();
  const IncomingMessage incoming{other, &received, 1};
  const bool even = group.rank() % 2 == 0;
  try {
    group.exchange(even ? Collective::all_reduce : Collective::barrier, {}, {&incoming, 1});
    ADD_FAILURE() << "a message that nobody sent";
  } catch (const LostRanksError& error) {
    const char* what = other % 2 == 0 ? "all_reduce" : "barrier";
    EXPECT_THAT(error.what(), ::testing::HasSubstr("for rank " + std::to_string(other) +
                                                   " (which waits in " + what + ")"));
  }
}

}  // namespace
}  // namespace gsa
