// Signals, time limits, and what a run says of itself to those who watch.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include "tests/trainer/run/launched.h"
#include "trainer/metrics/events.h"

namespace gsa::test {
namespace {

constexpr int stopped = 75;
constexpr int signal_base = 128;

class Stop : public testing::Test {
 protected:
  static std::string endless(const std::string& run, const std::string& more = "") {
    return fmt::format("train tiny.yaml run.name={} train.tokens=100M {}", run, more);
  }
  std::filesystem::path folder(const std::string& run) const {
    return place_.path() / "runs" / run;
  }
  void expect_whole(const std::string& run) {
    const std::vector<StepMetrics> metrics = place_.metrics(run);
    ASSERT_FALSE(metrics.empty());
    EXPECT_FALSE(place_.state(run, metrics.back().step).empty());
  }

  Workplace place_;
};

TEST_F(Stop, EachOfTheSignalsCheckpointsAndLeavesWith75) {
  for (const int number : {SIGTERM, SIGINT, SIGUSR1}) {
    const std::string run = fmt::format("signal-{}", number);
    Launched launched(place_, 0, endless(run), run + ".log");
    ASSERT_TRUE(launched.wait_until([&] { return launched.says("step 3/"); })) << launched.output();
    kill(launched.pid(), number);
    EXPECT_EQ(launched.wait(), stopped) << launched.output();
    expect_whole(run);
    const std::vector<RunEvent> events = read_events(folder(run) / "events.jsonl");
    ASSERT_EQ(events.size(), 4U);  // start, first step, checkpoint, stop
    EXPECT_EQ(events.back().reason, "a signal");
    EXPECT_EQ(read_heartbeat(folder(run) / "heartbeat.json").state, "stopped");
  }
}

TEST_F(Stop, ASignalToOneRankStopsAll) {
  Launched launched(place_, 2, endless("one-rank"), "log");
  ASSERT_TRUE(launched.wait_until([&] { return launched.says("step 3/"); })) << launched.output();
  kill(launched.ranks().at(1), SIGUSR1);
  EXPECT_EQ(launched.wait(), stopped) << launched.output();
  expect_whole("one-rank");
}

TEST_F(Stop, ASecondSignalLeavesAtOnce) {
  Launched launched(place_, 0, endless("twice"), "log");
  ASSERT_TRUE(launched.wait_until([&] { return launched.says("step 3/"); })) << launched.output();
  // Both are there before the program can do anything about the first.
  kill(launched.pid(), SIGSTOP);
  kill(launched.pid(), SIGINT);
  kill(launched.pid(), SIGTERM);
  kill(launched.pid(), SIGCONT);
  const int code = launched.wait();
  EXPECT_TRUE(code == signal_base + SIGINT || code == signal_base + SIGTERM) << code << "\n"
                                                                             << launched.output();
}

TEST_F(Stop, AWallClockLimitCheckpointsAndLeavesWith75) {
  const Outcome outcome = place_.ranks(2, endless("limited", "train.wall_clock_limit=6s"));
  EXPECT_EQ(outcome.exit_code, stopped) << outcome.output;
  const std::vector<RunEvent> events = read_events(folder("limited") / "events.jsonl");
  ASSERT_FALSE(events.empty());
  EXPECT_EQ(events.back().kind, "stop");
  EXPECT_EQ(events.back().reason, "train.wall_clock_limit");
  expect_whole("limited");
  const Outcome next =
      place_.ranks(2, endless("limited", "--resume auto train.stop_after_steps=1"));
  EXPECT_EQ(next.exit_code, stopped) << next.output;
}

TEST_F(Stop, TheHeartbeatFollowsTheRun) {
  Launched launched(place_, 0, endless("beating"), "log");
  const std::filesystem::path path = folder("beating") / "heartbeat.json";
  ASSERT_TRUE(launched.wait_until([&] {
    return std::filesystem::exists(path) && read_heartbeat(path).state == "training";
  })) << launched.output();
  EXPECT_EQ(read_heartbeat(path).pid, launched.pid());
  EXPECT_EQ(read_heartbeat(path).host, host_name());
  kill(launched.pid(), SIGTERM);
  EXPECT_EQ(launched.wait(), stopped);
  EXPECT_EQ(read_heartbeat(path).state, "stopped");
}

TEST_F(Stop, InspectShowsStartsStopsAndWhatWasLost) {
  ASSERT_EQ(place_.gsa("train tiny.yaml run.name=seen train.stop_after_steps=30").exit_code,
            stopped);
  {
    Launched killed(place_, 0, endless("seen", "--resume auto"), "log");
    ASSERT_TRUE(killed.wait_until([&] { return killed.says("step 33/"); })) << killed.output();
    killed.kill_all();
  }
  ASSERT_EQ(place_.gsa("train tiny.yaml run.name=seen --resume auto").exit_code, 0);
  const Outcome outcome = place_.gsa("inspect runs/seen");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  for (const char* words :
       {"50 steps", "best validation loss", "3 starts", "at step 0, 1 rank", "at step 30, 1 rank",
        "stopped at step 30: train.stop_after_steps", "killed, or lost with its machine",
        "stopped at step 50: done", "checkpoint step-00000050", "state done at step 50"}) {
    EXPECT_NE(outcome.output.find(words), std::string::npos) << words << " in\n" << outcome.output;
  }
}

}  // namespace
}  // namespace gsa::test
