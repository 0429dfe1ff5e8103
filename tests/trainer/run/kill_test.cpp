// Runs killed at random moments, again and again: every start works, and what is there at the end
// is to the bit what an undisturbed run leaves.
//
// GSA_KILLS is the number of kills (default 5; tests/README.md says how to do hundreds) and
// GSA_KILL_SEED the seed of their moments.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>

#include "tests/support/host_tensor.h"
#include "tests/trainer/run/launched.h"

namespace gsa::test {
namespace {

constexpr int ranks = 2;
constexpr int64_t steps = 120;
constexpr int default_kills = 5;
constexpr const char* configuration =
    " train.tokens=30720 checkpoint.every=2 checkpoint.keep=2 distributed.timeout=30";
static_assert(steps * 256 == 30720);

int64_t from_environment(const char* name, int64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::atoll(text);
}

// A moment of a run, and who is hit.
struct Kill {
  int64_t after_steps = 0;  // of this start
  std::chrono::microseconds then{0};
  int victim = 0;  // a rank; `ranks`: all of them and mpirun
};

Kill random_kill(Random& random) {
  constexpr int32_t most_steps = 8;
  constexpr int32_t most_microseconds = 40'000;  // some steps, with a checkpoint or two
  return {random.integer(most_steps), std::chrono::microseconds(random.integer(most_microseconds)),
          random.integer(ranks + 1)};
}

class KilledRun : public testing::Test {
 protected:
  int64_t lines(const std::string& run) const {
    const std::string text = content_of(place_.path() / "runs" / run / "metrics.jsonl");
    return std::count(text.begin(), text.end(), '\n');
  }

  // Starts the run and kills it. False if it was done before its moment had come.
  bool start_and_kill(const std::string& run, const Kill& plan) {
    const int64_t before = lines(run);
    Launched launched(place_, ranks, arguments(run) + " --resume auto", "log");
    const bool underway = launched.wait_until([&] {
      return launched.ranks().size() == ranks &&
             (plan.after_steps == 0 || lines(run) - before >= plan.after_steps);
    });
    const auto moment = std::chrono::steady_clock::now() + plan.then;
    if (!underway ||
        !launched.wait_until([&] { return std::chrono::steady_clock::now() >= moment; })) {
      EXPECT_EQ(launched.wait(), 0) << launched.output();
      return false;
    }
    const std::vector<pid_t> pids = launched.ranks();
    if (static_cast<size_t>(plan.victim) >= pids.size()) {
      launched.kill_all();
    } else {
      kill(pids[static_cast<size_t>(plan.victim)], SIGKILL);
      launched.wait();
    }
    const std::string output = launched.output();
    // A start may be ended by the kill, by nothing else.
    EXPECT_EQ(output.find(" error "), std::string::npos) << output;
    EXPECT_EQ(output.find("damaged"), std::string::npos) << output;
    return true;
  }

  void expect_as_undisturbed(const std::string& run) const {
    EXPECT_EQ(place_.metrics(run), place_.metrics("undisturbed")) << run;
    EXPECT_EQ(place_.state(run, steps), place_.state("undisturbed", steps)) << run;
  }

  static std::string arguments(const std::string& run) {
    return fmt::format("train tiny.yaml run.name={}{}", run, configuration);
  }

  Workplace place_;
};

TEST_F(KilledRun, EndsAsIfNothingHadHappened) {
  ASSERT_EQ(place_.ranks(ranks, arguments("undisturbed")).exit_code, 0);
  Random random(static_cast<uint64_t>(from_environment("GSA_KILL_SEED", 1)));
  const int64_t kills = from_environment("GSA_KILLS", default_kills);
  int runs = 0;
  for (int64_t done = 0; done < kills;) {
    const std::string run = fmt::format("killed-{}", runs++);
    while (done < kills && start_and_kill(run, random_kill(random))) {
      ++done;
    }
    const Outcome last = place_.ranks(ranks, arguments(run) + " --resume auto");
    ASSERT_EQ(last.exit_code, 0) << last.output;
    expect_as_undisturbed(run);
  }
  std::printf("%ld kills in %d runs\n", static_cast<long>(kills), runs);
}

}  // namespace
}  // namespace gsa::test
