// Runs that stop and go on: the same bits on the same number of ranks, the same curve on another.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/trainer/run/program.h"
#include "trainer/checkpoint/checkpoint.h"

namespace gsa::test {
namespace {

constexpr double rank_tolerance = 1e-5;
constexpr int stopped = 75;
constexpr int64_t last_step = 50;

class Resume : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    place_ = std::make_unique<Workplace>();
    const Outcome whole = place_->ranks(2, "train tiny.yaml run.name=whole");
    ASSERT_EQ(whole.exit_code, 0) << whole.output;
  }
  static void TearDownTestSuite() { place_.reset(); }

  static void expect_exit(int ranks, const std::string& arguments, int code) {
    const Outcome outcome = place_->ranks(ranks, "train tiny.yaml " + arguments);
    EXPECT_EQ(outcome.exit_code, code) << outcome.output;
  }

  static std::unique_ptr<Workplace> place_;
};

std::unique_ptr<Workplace> Resume::place_;

TEST_F(Resume, SameRanksSameBits) {
  expect_exit(2, "run.name=parts train.stop_after_steps=20", stopped);
  expect_exit(2, "run.name=parts train.stop_after_steps=7 --resume auto", stopped);
  expect_exit(2, "run.name=parts --resume auto", 0);
  EXPECT_EQ(place_->metrics("parts"), place_->metrics("whole"));
  EXPECT_EQ(place_->state("parts", last_step), place_->state("whole", last_step));
}

TEST_F(Resume, OnTheCpuThereAreNoAlgorithmsToRemember) {
  const CheckpointMetadata metadata =
      read_metadata(place_->path() / "runs/whole/checkpoints/step-00000050");
  EXPECT_EQ(metadata.product_library, "");
  EXPECT_TRUE(metadata.products.empty());
}

TEST_F(Resume, OtherRanksSameCurve) {
  expect_exit(4, "run.name=fewer train.stop_after_steps=15", stopped);
  expect_exit(1, "run.name=fewer train.stop_after_steps=15 --resume auto", stopped);
  expect_exit(2, "run.name=fewer --resume auto", 0);
  EXPECT_LT(loss_difference(place_->metrics("fewer"), place_->metrics("whole")), rank_tolerance);
}

TEST_F(Resume, SignalCheckpointsAndExitsWith75) {
  const Outcome outcome = place_->shell(
      "$GSA_BINARY train tiny.yaml run.name=signal train.tokens=100M > log 2>&1 & "
      "until grep -q 'step 3/' log; do :; done; kill -TERM $!; wait $!; code=$?; cat log; exit "
      "$code");
  EXPECT_EQ(outcome.exit_code, stopped) << outcome.output;
  const auto metrics = place_->metrics("signal");
  EXPECT_FALSE(place_->state("signal", metrics.back().step).empty());
}

TEST_F(Resume, DamagedCheckpointIsPassedOver) {
  expect_exit(2, "run.name=damaged checkpoint.every=10 train.stop_after_steps=30", stopped);
  std::filesystem::resize_file(
      place_->path() / "runs/damaged/checkpoints/step-00000030/rank-0001.h5", 100);
  const Outcome outcome = place_->ranks(2, "train tiny.yaml run.name=damaged --resume auto");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_NE(outcome.output.find("step-00000030 is damaged"), std::string::npos) << outcome.output;
  EXPECT_NE(outcome.output.find("resuming from runs/damaged/checkpoints/step-00000020"),
            std::string::npos);
  EXPECT_EQ(place_->metrics("damaged"), place_->metrics("whole"));
}

TEST_F(Resume, AReturnToAnEarlierCheckpointHoldsForLaterStartsToo) {
  expect_exit(2, "run.name=back checkpoint.every=10 train.stop_after_steps=35", stopped);
  const std::string folder = "runs/back/checkpoints/step-000000";
  expect_exit(2,
              "run.name=back checkpoint.every=0 train.stop_after_steps=5 --resume " + folder + "20",
              stopped);
  for (const char* step : {"30", "35"}) {
    EXPECT_FALSE(std::filesystem::exists(place_->path() / (folder + step)));
    EXPECT_TRUE(std::filesystem::exists(place_->path() / (folder + step + ".abandoned")));
  }
  const Outcome outcome = place_->ranks(2, "train tiny.yaml run.name=back --resume auto");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_NE(outcome.output.find("resuming from " + folder + "25"), std::string::npos)
      << outcome.output;
  EXPECT_EQ(place_->metrics("back"), place_->metrics("whole"));
}

TEST_F(Resume, ADamagedCheckpointThatIsNamedIsRefused) {
  expect_exit(1, "run.name=named train.stop_after_steps=3", stopped);
  const auto file = place_->path() / "runs/named/checkpoints/step-00000003/rank-0000.h5";
  std::fstream(file, std::ios::binary | std::ios::in | std::ios::out).seekp(5000).put('x');
  const Outcome outcome =
      place_->gsa("train tiny.yaml run.name=named --resume runs/named/checkpoints/step-00000003");
  EXPECT_EQ(outcome.exit_code, 3) << outcome.output;
  EXPECT_NE(outcome.output.find("rank-0000.h5"), std::string::npos) << outcome.output;
}

TEST_F(Resume, AutoWithNothingButDamagedCheckpointsDoesNotStartAnew) {
  expect_exit(1, "run.name=ruined checkpoint.every=2 train.stop_after_steps=4", stopped);
  const auto metrics = place_->metrics("ruined");
  for (const char* step : {"2", "4"}) {
    std::filesystem::resize_file(place_->path() / "runs/ruined/checkpoints" /
                                     (std::string("step-0000000") + step) / "model.h5",
                                 100);
  }
  const Outcome outcome = place_->ranks(2, "train tiny.yaml run.name=ruined --resume auto");
  EXPECT_EQ(outcome.exit_code, 3) << outcome.output;
  EXPECT_NE(outcome.output.find("step-00000002 is damaged"), std::string::npos) << outcome.output;
  EXPECT_NE(outcome.output.find("runs/ruined: none of its 2 checkpoints can be used"),
            std::string::npos)
      << outcome.output;
  EXPECT_EQ(place_->metrics("ruined"), metrics);
}

TEST_F(Resume, AutoWithoutACheckpointStartsAnew) {
  expect_exit(2, "run.name=fresh --resume auto", 0);
  EXPECT_EQ(place_->metrics("fresh"), place_->metrics("whole"));
}

TEST_F(Resume, AKilledRankEndsAllAndLosesNothing) {
  // Long enough that the run cannot be over before the kill; three steps after a checkpoint.
  const std::string more = " train.tokens=102400 ";
  expect_exit(2, "run.name=undisturbed" + more, 0);
  const Outcome outcome = place_->shell(
      "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; "
      "mpirun --oversubscribe --bind-to none -n 2 $GSA_BINARY train tiny.yaml run.name=killed "
      "checkpoint.every=5 distributed.timeout=20" +
      more +
      "> log 2>&1 & mpi=$!; "
      "until grep -q 'step 13/' log; do :; done; "
      "pkill -KILL -n -P $mpi; wait $mpi; code=$?; cat log; exit $code");
  EXPECT_NE(outcome.exit_code, 0) << outcome.output;
  expect_exit(2, "run.name=killed --resume auto" + more, 0);
  EXPECT_EQ(place_->metrics("killed"), place_->metrics("undisturbed"));
}

}  // namespace
}  // namespace gsa::test
