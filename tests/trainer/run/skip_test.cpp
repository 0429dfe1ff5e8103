// Numbers that go wrong: steps that are skipped on all ranks alike, over stops, and runs that end
// because every step is.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/trainer/run/program.h"
#include "trainer/metrics/events.h"

namespace gsa::test {
namespace {

constexpr int failed = 4;
constexpr int stopped = 75;
constexpr int64_t last_step = 50;
// Tight enough that this text's own noise is taken for spikes now and then.
constexpr const char* guarded =
    " optimizer.lr=3e-2 train.spike_factor=1.03 train.spike_window=5 train.max_skipped_steps=50";

class Skipped : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    place_ = std::make_unique<Workplace>();
    const Outcome whole = train("whole", guarded);
    ASSERT_EQ(whole.exit_code, 0) << whole.output;
  }
  static void TearDownTestSuite() { place_.reset(); }

  static Outcome train(const std::string& run, const std::string& more, int ranks = 2) {
    return place_->ranks(ranks, fmt::format("train tiny.yaml run.name={} {}", run, more));
  }
  static std::vector<int64_t> skips(const std::string& run) {
    std::vector<int64_t> steps;
    for (const StepMetrics& step : place_->metrics(run)) {
      if (step.skipped) {
        steps.push_back(step.step);
      }
    }
    return steps;
  }
  static std::vector<RunEvent> events(const std::string& run, const std::string& kind) {
    std::vector<RunEvent> found;
    for (const RunEvent& event : read_events(place_->path() / "runs" / run / "events.jsonl")) {
      if (event.kind == kind) {
        found.push_back(event);
      }
    }
    return found;
  }

  static std::unique_ptr<Workplace> place_;
};

std::unique_ptr<Workplace> Skipped::place_;

TEST_F(Skipped, SpikesAreToldAndTheRunGoesOn) {
  const std::vector<int64_t> steps = skips("whole");
  ASSERT_FALSE(steps.empty());
  ASSERT_LT(steps.size(), static_cast<size_t>(last_step) / 2);
  const std::vector<RunEvent> told = events("whole", "skip");
  ASSERT_EQ(told.size(), steps.size());
  for (size_t i = 0; i < steps.size(); ++i) {
    EXPECT_EQ(told[i].step, steps[i]);
    EXPECT_NE(told[i].reason.find("times the median of the last 5"), std::string::npos)
        << told[i].reason;
    EXPECT_NE(told[i].reason.find(
                  fmt::format("(samples {} to {};", (steps[i] - 1) * 8, steps[i] * 8 - 1)),
              std::string::npos)
        << told[i].reason;
  }
}

TEST_F(Skipped, AStopAnywhereChangesNothing) {
  // One start after the other, each of a few steps, so that some stop next to a skipped one.
  for (int64_t start = 0; start < last_step; ++start) {
    const Outcome outcome =
        train("parts",
              fmt::format("{} train.stop_after_steps=9 checkpoint.every=2 --resume auto", guarded));
    if (outcome.exit_code == 0) {
      break;
    }
    ASSERT_EQ(outcome.exit_code, stopped) << outcome.output;
  }
  EXPECT_EQ(place_->metrics("parts"), place_->metrics("whole"));
  EXPECT_EQ(place_->state("parts", last_step), place_->state("whole", last_step));
}

TEST_F(Skipped, TooManyInARowEndTheRunWithACheckpointFromBeforeThem) {
  ASSERT_EQ(train("bad", "train.stop_after_steps=20").exit_code, stopped);
  // A rate that throws the model away in one step; what follows is far above the median.
  const Outcome outcome = train("bad",
                                "--resume auto optimizer.lr=1e4 optimizer.clip=0 "
                                "checkpoint.every=1 checkpoint.keep=0 train.spike_factor=1.5 "
                                "train.spike_window=5 train.max_skipped_steps=4");
  EXPECT_EQ(outcome.exit_code, failed) << outcome.output;
  const std::vector<int64_t> steps = skips("bad");
  ASSERT_EQ(steps.size(), 4U) << outcome.output;
  const int64_t before = steps.front() - 1;
  EXPECT_NE(outcome.output.find(
                fmt::format("4 steps in a row were skipped, {} to {}", before + 1, before + 4)),
            std::string::npos)
      << outcome.output;
  EXPECT_NE(
      outcome.output.find(fmt::format("the last checkpoint is from before them: step {}", before)),
      std::string::npos)
      << outcome.output;
  EXPECT_FALSE(place_->state("bad", before).empty());
  EXPECT_FALSE(std::filesystem::exists(place_->path() / "runs/bad/checkpoints" /
                                       fmt::format("step-{:08d}", before + 1)));
  const std::vector<RunEvent> stops = events("bad", "stop");
  ASSERT_FALSE(stops.empty());
  EXPECT_NE(stops.back().reason.find("4 steps in a row"), std::string::npos);
}

TEST_F(Skipped, WeightsAreComparedOverTheRanksAndChangeNothing) {
  const Outcome outcome = train("compared", "distributed.check_weights_every=3");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  ASSERT_EQ(train("plain", "").exit_code, 0);
  EXPECT_EQ(place_->metrics("compared"), place_->metrics("plain"));
}

}  // namespace
}  // namespace gsa::test
