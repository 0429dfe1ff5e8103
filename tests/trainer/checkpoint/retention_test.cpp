#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>

#include "tests/trainer/checkpoint/checkpoint_fixture.h"
#include "trainer/checkpoint/checkpoint.h"

namespace gsa {
namespace {

namespace fs = std::filesystem;
using testing::TemporaryFolder;
using testing::write_small;

std::vector<std::string> names_in(const fs::path& directory) {
  std::vector<std::string> names;
  for (const fs::path& folder : list_checkpoints(directory)) {
    names.push_back(folder.filename().string());
  }
  return names;
}

// Writes checkpoints at these steps, one second after the other by their files' times.
void write_steps(const fs::path& directory, const std::vector<int64_t>& steps) {
  const fs::file_time_type start = fs::file_time_type::clock::now();
  int seconds = 0;
  for (const int64_t step : steps) {
    fs::last_write_time(write_small(directory, step) / "manifest.json",
                        start + std::chrono::seconds(seconds++));
  }
}

using Names = std::vector<std::string>;

TEST(Retention, ListsCheckpointsByStepAndNothingElse) {
  const TemporaryFolder folder;
  EXPECT_TRUE(list_checkpoints(folder.path() / "absent").empty());
  for (const char* name : {"step-00000009", "step-123456789", "step-00000010",
                           "step-00000011.partial", "step-12", "step-", "other"}) {
    fs::create_directory(folder.path() / name);
  }
  std::ofstream(folder.path() / "step-00000013") << "a file";
  EXPECT_EQ(names_in(folder.path()), (Names{"step-00000009", "step-00000010", "step-123456789"}));
}

TEST(Retention, KeepsTheNewestAndTheMilestones) {
  const TemporaryFolder folder;
  write_steps(folder.path(), {10, 20, 30, 40, 50});
  apply_retention(folder.path(), 0, 0);
  EXPECT_EQ(names_in(folder.path()).size(), 5U);  // 0 keeps all
  apply_retention(folder.path(), 2, 20);
  EXPECT_EQ(names_in(folder.path()), (Names{"step-00000020", "step-00000040", "step-00000050"}));
  apply_retention(folder.path(), 1, 0);
  EXPECT_EQ(names_in(folder.path()), (Names{"step-00000050"}));
}

TEST(Retention, SparesTheOneWrittenLastEvenIfOthersHaveLaterSteps) {
  const TemporaryFolder folder;
  // A run that went to 30, went back to 10 because 20 and 30 were damaged, and wrote 15.
  write_steps(folder.path(), {10, 20, 30, 15});
  apply_retention(folder.path(), 1, 0);
  EXPECT_EQ(names_in(folder.path()), (Names{"step-00000015", "step-00000030"}));
}

TEST(Retention, NeverDeletesTheNewestWholeOne) {
  const TemporaryFolder folder;
  write_steps(folder.path(), {10, 20, 30, 40});
  for (const char* damaged : {"step-00000030", "step-00000040"}) {
    std::ofstream(folder.path() / damaged / "model.h5") << "damaged";
  }
  // A run that goes on from 20 keeps what it writes, whatever stands after it.
  for (const int64_t step : {22, 24, 30}) {
    write_small(folder.path(), step);
    fs::last_write_time(folder.path() / ("step-000000" + std::to_string(step)) / "manifest.json",
                        fs::file_time_type::clock::now() + std::chrono::seconds(10 + step));
    for (const int64_t keep : {2, 1}) {
      apply_retention(folder.path(), keep, 0);
      const auto newest = newest_whole_checkpoint(folder.path(), nullptr);
      ASSERT_TRUE(newest);
      EXPECT_EQ(newest->filename(), "step-000000" + std::to_string(step));
    }
  }
}

TEST(Retention, SetsAsideWhatLiesBehindAReturn) {
  const TemporaryFolder folder;
  write_steps(folder.path(), {10, 20, 30});
  EXPECT_EQ(set_aside_after(folder.path(), 10).size(), 2U);
  EXPECT_EQ(names_in(folder.path()), (Names{"step-00000010"}));
  EXPECT_TRUE(fs::exists(folder.path() / "step-00000030.abandoned" / "manifest.json"));
  write_small(folder.path(), 20);
  apply_retention(folder.path(), 1, 0);  // leaves them alone
  EXPECT_TRUE(fs::exists(folder.path() / "step-00000020.abandoned" / "manifest.json"));
  EXPECT_EQ(set_aside_after(folder.path(), 10).size(), 1U);  // in place of the earlier one
  EXPECT_TRUE(set_aside_after(folder.path(), 10).empty());
}

TEST(Retention, RemovesDebrisOfInterruptedWrites) {
  const TemporaryFolder folder;
  write_steps(folder.path(), {10});
  const fs::path debris = folder.path() / "step-00000020.partial";
  fs::create_directory(debris);
  std::ofstream(debris / "rank-0000.h5") << "half";
  const fs::path foreign = folder.path() / "notes.partial";
  fs::create_directory(foreign);
  EXPECT_EQ(names_in(folder.path()), (Names{"step-00000010"}));  // never taken for a checkpoint
  apply_retention(folder.path(), 3, 0);
  EXPECT_FALSE(fs::exists(debris));
  EXPECT_TRUE(fs::exists(foreign));
  EXPECT_EQ(names_in(folder.path()), (Names{"step-00000010"}));
}

TEST(Retention, AWriteClearsTheDebrisOfItsOwnStep) {
  const TemporaryFolder folder;
  const fs::path debris = folder.path() / "step-00000020.partial";
  fs::create_directory(debris);
  std::ofstream(debris / "rank-0007.h5") << "half";
  const fs::path checkpoint = write_small(folder.path(), 20);
  EXPECT_FALSE(fs::exists(debris));
  EXPECT_FALSE(fs::exists(checkpoint / "rank-0007.h5"));
  EXPECT_TRUE(testing::reads_back(checkpoint));
}

TEST(Retention, ANewCheckpointOfAStepReplacesTheOldOne) {
  const TemporaryFolder folder;
  const fs::path checkpoint = write_small(folder.path(), 20);
  std::ofstream(checkpoint / "rank-0000.h5") << "damaged";
  EXPECT_EQ(write_small(folder.path(), 20), checkpoint);
  EXPECT_NO_THROW(verify_checkpoint(checkpoint));
  EXPECT_FALSE(fs::exists(folder.path() / "step-00000020.partial"));
}

}  // namespace
}  // namespace gsa
