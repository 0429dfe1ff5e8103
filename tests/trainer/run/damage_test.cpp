// What a disk does to checkpoints, seen from the start of a run: flipped bytes, and no room.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <fstream>

#include "tests/trainer/run/launched.h"

namespace gsa::test {
namespace {

namespace fs = std::filesystem;

constexpr int stopped = 75;

class DamagedRun : public testing::Test {
 protected:
  fs::path checkpoints(const std::string& run) const {
    return place_.path() / "runs" / run / "checkpoints";
  }
  static bool says(const Outcome& outcome, const std::string& words) {
    return outcome.output.find(words) != std::string::npos;
  }

  Workplace place_;
};

void flip_byte(const fs::path& path, uintmax_t position) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekg(static_cast<std::streamoff>(position));
  const int byte = file.get();
  file.seekp(static_cast<std::streamoff>(position));
  file.put(static_cast<char>(byte ^ 0x40));
}

// First and last byte, HDF5's superblock and the headers behind it, and three inside.
std::vector<uintmax_t> positions_in(uintmax_t bytes) {
  constexpr uintmax_t superblock = 9;
  constexpr uintmax_t object_header = 100;
  return {0, superblock, object_header, bytes / 4, bytes / 2, bytes * 3 / 4, bytes - 1};
}

TEST_F(DamagedRun, AFlippedByteAnywhereIsNamedAndTheCheckpointBeforeIsUsed) {
  const Outcome made = place_.ranks(
      2, "train tiny.yaml run.name=flip checkpoint.every=10 train.stop_after_steps=20");
  ASSERT_EQ(made.exit_code, stopped) << made.output;
  fs::copy(place_.path() / "runs/flip", place_.path() / "whole", fs::copy_options::recursive);
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(checkpoints("flip") / "step-00000020")) {
    names.push_back(entry.path().filename().string());
  }
  ASSERT_EQ(names.size(), 4U);  // two ranks, the model, the manifest
  for (const std::string& name : names) {
    const fs::path file = checkpoints("flip") / "step-00000020" / name;
    for (const uintmax_t position : positions_in(fs::file_size(file))) {
      flip_byte(file, position);
      const Outcome outcome =
          place_.gsa("train tiny.yaml run.name=flip --resume auto train.stop_after_steps=1");
      EXPECT_EQ(outcome.exit_code, stopped) << outcome.output;
      EXPECT_TRUE(says(outcome, "step-00000020 is damaged")) << outcome.output;
      EXPECT_TRUE(says(outcome, "step-00000020/" + name)) << outcome.output;
      EXPECT_TRUE(says(outcome, "resuming from runs/flip/checkpoints/step-00000010"))
          << name << " byte " << position << "\n"
          << outcome.output;
      fs::remove_all(place_.path() / "runs/flip");
      fs::copy(place_.path() / "whole", place_.path() / "runs/flip", fs::copy_options::recursive);
    }
  }
}

TEST_F(DamagedRun, AFullDiskIsToldAndTheNextIntervalTriesAgain) {
  // A limit on the size of files stands for the disk, until it is lifted.
  place_.write("full.sh", "trap '' XFSZ; ulimit -S -f 24; exec \"$@\"\n");
  const fs::path run = place_.path() / "runs/full";
  // Long enough not to be over before the limit is lifted.
  Launched launched(place_, 0,
                    "train tiny.yaml run.name=full train.tokens=100M train.validate_every=0 "
                    "checkpoint.every=50 log.every=100000",
                    "log", "sh full.sh");
  const auto failures = [&] {
    const std::string text = launched.output();
    size_t count = 0;
    for (size_t at = 0; (at = text.find("training goes on", at)) != std::string::npos; ++at) {
      ++count;
    }
    return count;
  };
  ASSERT_TRUE(launched.wait_until([&] { return failures() >= 2; })) << launched.output();
  EXPECT_TRUE(launched.says("File too large")) << launched.output();
  EXPECT_TRUE(launched.says("the next try is in at most 50 steps")) << launched.output();
  ASSERT_EQ(
      place_.shell(fmt::format("prlimit --pid {} --fsize=unlimited", launched.pid())).exit_code, 0);
  ASSERT_TRUE(launched.wait_until([&] { return launched.says("info checkpoint "); }))
      << launched.output();
  kill(launched.pid(), SIGTERM);
  EXPECT_EQ(launched.wait(), stopped) << launched.output();
  // Lines of metrics that did not fit were kept: none is missing.
  const std::vector<StepMetrics> metrics = place_.metrics("full");
  for (size_t i = 0; i < metrics.size(); ++i) {
    ASSERT_EQ(metrics[i].step, static_cast<int64_t>(i) + 1);
  }
  EXPECT_FALSE(place_.state("full", metrics.back().step).empty());
  for (const auto& entry : fs::directory_iterator(run / "checkpoints")) {
    EXPECT_NE(entry.path().extension(), ".partial") << entry.path();
  }
}

}  // namespace
}  // namespace gsa::test
