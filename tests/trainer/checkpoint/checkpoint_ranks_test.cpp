// Checkpoints written by all ranks together. What other numbers of ranks would read or have written
// is acted out by single ranks that hold other shares.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/distributed/mpi_test.h"
#include "tests/trainer/checkpoint/checkpoint_fixture.h"
#include "tests/trainer/checkpoint/shared_folder.h"
#include "trainer/checkpoint/checkpoint.h"

namespace gsa {
namespace {

namespace fs = std::filesystem;
using testing::all_ranks;
using testing::checkpoint_error;
using testing::metadata_at;
using testing::mismatches_through_hdf5;
using testing::SharedFolder;
using testing::small_model;
using testing::TestShard;

constexpr int most_ranks = 5;

TEST(CheckpointRanks, ReadsOnAnyNumberOfRanksWhatAnyNumberWrote) {
  const auto ranks = all_ranks();
  const SharedFolder folder(*ranks);
  TestShard written(small_model(), ranks->rank(), ranks->size(), /*filled=*/true);
  const fs::path checkpoint =
      write_checkpoint(*ranks, folder.path(), metadata_at(12), written.view());
  EXPECT_EQ(checkpoint, folder.path() / "step-00000012");
  EXPECT_EQ(read_metadata(checkpoint).ranks, ranks->size());
  EXPECT_NO_THROW(verify_checkpoint(checkpoint));
  EXPECT_EQ(mismatches_through_hdf5(checkpoint / "model.h5"), 0);
  for (int readers = 1; readers <= most_ranks; ++readers) {
    for (int reader = 0; reader < readers; ++reader) {
      TestShard shard(small_model(), reader, readers, /*filled=*/false);
      read_checkpoint(checkpoint, shard.view());
      EXPECT_EQ(shard.mismatches(), 0) << "read as rank " << reader << " of " << readers;
    }
  }
}

TEST(CheckpointRanks, WritesRanksThatHoldNothing) {
  const auto ranks = all_ranks();
  const SharedFolder folder(*ranks);
  const std::vector<CheckpointParameter> tiny{{"scale", {1}}};
  TestShard written(tiny, ranks->rank(), ranks->size(), /*filled=*/true);
  const fs::path checkpoint =
      write_checkpoint(*ranks, folder.path(), metadata_at(1), written.view());
  TestShard shard(tiny, ranks->rank(), ranks->size(), /*filled=*/false);
  read_checkpoint(checkpoint, shard.view());
  EXPECT_EQ(shard.mismatches(), 0);
}

TEST(CheckpointRanks, AFailureOfOneRankIsTheSameErrorOnAll) {
  const auto ranks = all_ranks();
  const SharedFolder folder(*ranks);
  TestShard shard(small_model(), ranks->rank(), ranks->size(), /*filled=*/true);
  const fs::path earlier = write_checkpoint(*ranks, folder.path(), metadata_at(1), shard.view());
  const int failing = ranks->size() - 1;
  CheckpointShard view = shard.view();
  if (ranks->rank() == failing) {
    view.second_moment = view.second_moment.subspan(1);
  }
  const std::string error =
      checkpoint_error([&] { write_checkpoint(*ranks, folder.path(), metadata_at(2), view); });
  EXPECT_THAT(error, ::testing::HasSubstr("the moments of a checkpoint must have as many"));
  EXPECT_EQ(ranks->all_gather_text(error),
            std::vector<std::string>(static_cast<size_t>(ranks->size()), error));
  EXPECT_EQ(list_checkpoints(folder.path()), std::vector<fs::path>{earlier});
  EXPECT_FALSE(fs::exists(folder.path() / "step-00000002.partial"));
  EXPECT_NO_THROW(verify_checkpoint(earlier));
}

TEST(CheckpointRanks, RejectsSharesThatDoNotMakeAWhole) {
  const auto ranks = all_ranks();
  const SharedFolder folder(*ranks);
  // Every rank holds the first of two halves: the second is nobody's, the first everybody's.
  TestShard shard(small_model(), 0, 2, /*filled=*/true);
  const std::string error = checkpoint_error(
      [&] { write_checkpoint(*ranks, folder.path(), metadata_at(2), shard.view()); });
  EXPECT_THAT(error,
              ::testing::HasSubstr(ranks->size() == 1 ? "is held by no rank" : "is held twice"));
  EXPECT_TRUE(list_checkpoints(folder.path()).empty());
}

TEST(CheckpointRanks, AFolderThatCannotBeWrittenIsOneClearErrorOnEveryRank) {
  const auto ranks = all_ranks();
  const SharedFolder folder(*ranks);
  const fs::path file = folder.path() / "file";
  if (ranks->rank() == 0) {
    std::ofstream(file) << "not a folder";
  }
  ranks->barrier();
  TestShard shard(small_model(), ranks->rank(), ranks->size(), /*filled=*/true);
  const std::string error =
      checkpoint_error([&] { write_checkpoint(*ranks, file, metadata_at(2), shard.view()); });
  EXPECT_THAT(error, ::testing::HasSubstr("file/step-00000002.partial"));
  EXPECT_THAT(error, ::testing::HasSubstr("Not a directory"));
}

}  // namespace
}  // namespace gsa
