// Ranks that stop answering: the others notice within distributed.timeout, say which rank and which
// operation, and end the run with exit code 4.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include "tests/trainer/run/launched.h"

namespace gsa::test {
namespace {

constexpr int failed = 4;
constexpr int stopped = 75;
constexpr const char* endless =
    "train.tokens=100M train.validate_every=0 distributed.timeout=8 checkpoint.every=5 ";

class Hang : public testing::Test {
 protected:
  // A run of some ranks that has made a few steps.
  std::unique_ptr<Launched> underway(int ranks, const std::string& name,
                                     const std::string& mpi_options = "") {
    auto launched = std::make_unique<Launched>(
        place_, ranks,
        fmt::format("train tiny.yaml run.name={} {} train.micro_batch=1 train.batch_tokens=192",
                    name, endless),
        name + ".log", mpi_options);
    EXPECT_TRUE(launched->wait_until([&] { return launched->says("step 12/"); }))
        << launched->output();
    return launched;
  }
  // Each of these ranks has said that it waited for this one, in a collective. Some waited a little
  // less than the time-out: they gave up together with the first.
  static void expect_named(const Launched& launched, const std::vector<int>& others, int lost) {
    for (const int rank : others) {
      EXPECT_THAT(launched.output(),
                  testing::ContainsRegex(fmt::format("[a-z_]+ on rank {}: waited [0-9.]+ s for "
                                                     "rank {}; .*distributed.timeout",
                                                     rank, lost)));
    }
  }
  void expect_resumes(const std::string& name) {
    const Outcome outcome = place_.ranks(
        3, fmt::format("train tiny.yaml run.name={} {} train.micro_batch=1 train.batch_tokens=192 "
                       "train.stop_after_steps=2 --resume auto",
                       name, endless));
    EXPECT_EQ(outcome.exit_code, stopped) << outcome.output;
    EXPECT_NE(outcome.output.find("resuming from"), std::string::npos) << outcome.output;
  }

  Workplace place_;
};

TEST_F(Hang, AStalledRankIsNamedByAllOthers) {
  const auto launched = underway(3, "stalled");
  const std::vector<pid_t> ranks = launched->ranks();
  ASSERT_EQ(ranks.size(), 3U);
  kill(ranks[1], SIGSTOP);
  EXPECT_EQ(launched->wait(), failed) << launched->output();
  expect_named(*launched, {0, 2}, 1);
  expect_resumes("stalled");
}

TEST_F(Hang, ADeadRankIsNamedByAllOthersWhereMpirunLetsThemLive) {
  // With recovery mpirun's own code may be 0, and what it says of ranks' codes gets lost: the ranks
  // are started by a script that notes them, and that gets a moment when mpirun ends it.
  place_.write("noting.sh",
               "trap '' TERM\n"
               "\"$@\" & echo $! >pid.$OMPI_COMM_WORLD_RANK\n"
               "wait $!; echo $? >code.$OMPI_COMM_WORLD_RANK\n");
  const auto launched = underway(3, "dead", "--enable-recovery sh ./noting.sh");
  const auto noted = [this](const std::string& name) { return content_of(place_.path() / name); };
  kill(std::stoi(noted("pid.2")), SIGKILL);
  launched->wait();
  expect_named(*launched, {0, 1}, 2);
  EXPECT_EQ(noted("code.2"), "137\n");
  // Who aborts first may take the other along before it has noted anything.
  const std::string codes = noted("code.0") + noted("code.1");
  EXPECT_TRUE(codes == "4\n" || codes == "4\n4\n") << codes;
  expect_resumes("dead");
}

TEST_F(Hang, ADeadRankEndsTheRunAtOnceUnderPlainMpirun) {
  const auto launched = underway(3, "plain");
  kill(launched->ranks().at(2), SIGKILL);
  EXPECT_NE(launched->wait(), 0) << launched->output();
  EXPECT_TRUE(launched->says("process rank 2")) << launched->output();  // mpirun's own words
  expect_resumes("plain");
}

}  // namespace
}  // namespace gsa::test
