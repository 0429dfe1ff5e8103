#include "trainer/checkpoint/checkpoint_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <future>
#include <stdexcept>
#include <thread>

#include "tests/distributed/mpi_test.h"
#include "tests/trainer/checkpoint/checkpoint_fixture.h"
#include "tests/trainer/checkpoint/shared_folder.h"

namespace gsa {
namespace {

namespace fs = std::filesystem;
using testing::all_ranks;
using testing::checkpoint_error;
using testing::metadata_at;
using testing::SharedFolder;
using testing::small_model;
using testing::TestShard;

// All ranks, each with its share of the small model and a writer for it.
class CheckpointWriterTest : public ::testing::Test {
 protected:
  CheckpointWriterTest()
      : ranks_(all_ranks()),
        folder_(*ranks_),
        shard_(small_model(), ranks_->rank(), ranks_->size(), /*filled=*/true) {}

  std::unique_ptr<CheckpointWriter> writer(const fs::path& directory, RetentionRules rules = {}) {
    const CheckpointShard view = shard_.view();
    const auto elements = static_cast<int64_t>(view.master.size());
    return std::make_unique<CheckpointWriter>(
        *ranks_, directory, Buffer(Device::cpu, CheckpointWriter::snapshot_bytes(elements)),
        small_model(), std::vector<CheckpointRange>(view.ranges.begin(), view.ranges.end()),
        elements, rules);
  }

  void start(CheckpointWriter& writer, int64_t step) {
    fill(writer);
    writer.start(metadata_at(step), nullptr);
  }
  void fill(const CheckpointWriter& writer) {
    const CheckpointShard view = shard_.view();
    const CheckpointWriter::Snapshot snapshot = writer.snapshot();
    std::copy(view.master.begin(), view.master.end(), snapshot.master.as<float>());
    std::copy(view.first_moment.begin(), view.first_moment.end(),
              snapshot.first_moment.as<float>());
    std::copy(view.second_moment.begin(), view.second_moment.end(),
              snapshot.second_moment.as<float>());
  }

  // What a training step does to the values once the snapshot is taken.
  void train_on() {
    const CheckpointShard view = shard_.view();
    for (const std::span<float> values : {view.master, view.first_moment, view.second_moment}) {
      std::fill(values.begin(), values.end(), -1.0F);
    }
  }

  std::unique_ptr<Communicator> ranks_;
  SharedFolder folder_;
  TestShard shard_;
};

TEST_F(CheckpointWriterTest, WritesTheSnapshotWhileTheValuesChange) {
  const auto background = writer(folder_.path());
  EXPECT_EQ(background->poll(), std::nullopt);
  start(*background, 5);
  train_on();
  EXPECT_TRUE(background->busy());
  std::optional<fs::path> written;
  while (!written) {  // steps of a training that is waiting for it
    written = background->poll();
    std::this_thread::yield();
  }
  EXPECT_EQ(*written, folder_.path() / "step-00000005");
  EXPECT_FALSE(background->busy());
  EXPECT_NO_THROW(verify_checkpoint(*written));
  EXPECT_TRUE(testing::reads_back(*written));
}

TEST_F(CheckpointWriterTest, WaitsForTheSnapshotOnAThreadOfItsOwn) {
  const auto background = writer(folder_.path());
  std::promise<void> filled;
  background->start(metadata_at(5), [&] { filled.get_future().wait(); });
  EXPECT_EQ(background->poll(), std::nullopt);
  EXPECT_EQ(background->poll(), std::nullopt);
  fill(*background);
  filled.set_value();
  const std::optional<fs::path> written = background->finish();
  ASSERT_TRUE(written);
  EXPECT_TRUE(testing::reads_back(*written));
}

TEST_F(CheckpointWriterTest, NeverWritesTwoAtOnce) {
  const auto background = writer(folder_.path());
  start(*background, 5);
  EXPECT_THROW(background->start(metadata_at(6), nullptr), std::logic_error);
  EXPECT_EQ(background->finish(), folder_.path() / "step-00000005");
  start(*background, 6);
  EXPECT_EQ(background->finish(), folder_.path() / "step-00000006");
  EXPECT_EQ(background->finish(), std::nullopt);
}

TEST_F(CheckpointWriterTest, AppliesTheRetentionRules) {
  const auto background = writer(folder_.path(), {.keep = 2, .keep_every = 10});
  for (const int64_t step : {10, 15, 20, 25}) {
    start(*background, step);
    background->finish();
  }
  ranks_->barrier();
  EXPECT_EQ(
      list_checkpoints(folder_.path()),
      (std::vector<fs::path>{folder_.path() / "step-00000010", folder_.path() / "step-00000020",
                             folder_.path() / "step-00000025"}));
}

TEST_F(CheckpointWriterTest, AFailureSurfacesOnEveryRankAndTheNextTryWorks) {
  const fs::path directory = folder_.path() / "checkpoints";
  if (ranks_->rank() == 0) {
    std::ofstream(directory) << "in the way";
  }
  ranks_->barrier();
  const auto background = writer(directory);
  start(*background, 5);
  const std::string error = checkpoint_error([&] { background->finish(); });
  EXPECT_THAT(error, ::testing::HasSubstr("Not a directory"));
  EXPECT_EQ(ranks_->all_gather_text(error),
            std::vector<std::string>(static_cast<size_t>(ranks_->size()), error));
  EXPECT_FALSE(background->busy());
  if (ranks_->rank() == 0) {
    fs::remove(directory);
  }
  ranks_->barrier();
  start(*background, 6);
  const std::optional<fs::path> written = background->finish();
  ASSERT_TRUE(written);
  EXPECT_TRUE(testing::reads_back(*written));
}

TEST_F(CheckpointWriterTest, WhatWasNotFinishedIsNoCheckpoint) {
  auto background = writer(folder_.path());
  start(*background, 5);
  background.reset();  // an exit without `finish`
  ranks_->barrier();
  EXPECT_TRUE(list_checkpoints(folder_.path()).empty());
  background = writer(folder_.path());
  start(*background, 5);
  const std::optional<fs::path> written = background->finish();
  ASSERT_TRUE(written);
  EXPECT_TRUE(testing::reads_back(*written));
}

}  // namespace
}  // namespace gsa
