// What a checkpoint is to others: to HDF5 tools, after a move, to another model, on a full disk.
#include "trainer/checkpoint/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <hdf5.h>
#include <sys/resource.h>

#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <numeric>
#include <utility>

#include "tests/trainer/checkpoint/checkpoint_fixture.h"
#include "trainer/checkpoint/manifest.h"

namespace gsa {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using testing::checkpoint_error;
using ::testing::HasSubstr;
using testing::metadata_at;
using testing::mismatches_through_hdf5;
using testing::small_model;
using testing::TemporaryFolder;
using testing::TestShard;
using testing::value_of;
using testing::write_small;

// What a command prints; empty if it fails.
std::string output_of(const std::string& command) {
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen((command + " 2>&1").c_str(), "r"), pclose);
  std::string text;
  std::array<char, 4096> block{};
  while (const size_t got = fread(block.data(), 1, block.size(), pipe.get())) {
    text.append(block.data(), got);
  }
  return text;
}

TEST(Checkpoint, KeepsItsMetadata) {
  const TemporaryFolder folder;
  const fs::path checkpoint = write_small(folder.path(), 77);
  const CheckpointMetadata wanted = metadata_at(77);
  CheckpointMetadata got = read_metadata(checkpoint);
  EXPECT_EQ(got.step, wanted.step);
  EXPECT_EQ(got.optimizer_step, wanted.optimizer_step);
  EXPECT_EQ(got.tokens_seen, wanted.tokens_seen);
  EXPECT_EQ(got.next_sample, wanted.next_sample);
  EXPECT_EQ(got.seed, wanted.seed);
  EXPECT_EQ(got.ranks, 1);
  EXPECT_EQ(got.config, wanted.config);
  EXPECT_EQ(got.versions.count("hdf5"), 1U);
  got.versions.erase("hdf5");
  EXPECT_EQ(got.versions, wanted.versions);
  EXPECT_EQ(got.product_library, wanted.product_library);
  EXPECT_EQ(got.products, wanted.products);
}

TEST(Checkpoint, NamesItsParametersInOrder) {
  const TemporaryFolder folder;
  const std::vector<CheckpointParameter> got = read_parameters(write_small(folder.path(), 1));
  const std::vector<CheckpointParameter> wanted = small_model();
  ASSERT_EQ(got.size(), wanted.size());
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_EQ(got[i].name, wanted[i].name);
    EXPECT_EQ(got[i].shape, wanted[i].shape);
  }
}

TEST(Checkpoint, IsReadByHdf5AsWholeMatrices) {
  const TemporaryFolder folder;
  EXPECT_EQ(mismatches_through_hdf5(write_small(folder.path(), 1) / "model.h5"), 0);
}

TEST(Checkpoint, SaysInItsManifestWhereHdf5HasThings) {
  const TemporaryFolder folder;
  const fs::path checkpoint = write_small(folder.path(), 1);
  const RankFileParts parts = read_manifest(checkpoint).files.front().parts;
  const hid_t file = H5Fopen((checkpoint / "rank-0000.h5").c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  const auto offset_and_size = [file](const char* name) {
    const hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT);
    const std::pair<uint64_t, uint64_t> place(H5Dget_offset(dataset), H5Dget_storage_size(dataset));
    H5Dclose(dataset);
    return place;
  };
  const uint64_t buffer_bytes = static_cast<uint64_t>(parts.elements) * sizeof(float);
  EXPECT_GT(parts.elements, 0);
  EXPECT_EQ(offset_and_size("master"), std::pair(parts.buffers[0], buffer_bytes));
  EXPECT_EQ(offset_and_size("first_moment"), std::pair(parts.buffers[1], buffer_bytes));
  EXPECT_EQ(offset_and_size("second_moment"), std::pair(parts.buffers[2], buffer_bytes));
  EXPECT_EQ(parts.rows, static_cast<int64_t>(small_model().size()));
  EXPECT_EQ(offset_and_size("ranges"),
            std::pair(parts.ranges, static_cast<uint64_t>(parts.rows) * 4 * sizeof(int64_t)));
  H5Fclose(file);
}

TEST(Checkpoint, IsReadByH5pyAndH5dump) {
  const TemporaryFolder folder;
  const fs::path model = write_small(folder.path(), 1) / "model.h5";
  const std::string q_proj = "/parameters/model.layers.0.attn.q_proj.weight";
  const std::string dumped = output_of("h5dump -d " + q_proj + " " + model.string());
  if (dumped.find("not found") != std::string::npos) {
    GTEST_SKIP() << "h5dump is not installed";
  }
  EXPECT_THAT(dumped, AllOf(HasSubstr("( 11, 13 )"), HasSubstr("(10,11): 6142, 6143")));
  if (output_of("/usr/bin/python3 -c 'import h5py'") != "") {
    GTEST_SKIP() << "Python's h5py is not installed";
  }
  EXPECT_EQ(output_of("/usr/bin/python3 -c \"import h5py; f = h5py.File('" + model.string() +
                      "'); d = f['" + q_proj +
                      "']; print(d.shape, d.dtype, d[10, 12], d[:].sum(), f.attrs['step'])\""),
            "(11, 13) float32 6143.0 868296.0 1\n");
}

TEST(Checkpoint, MayBeMoved) {
  const TemporaryFolder folder;
  const fs::path moved = folder.path() / "elsewhere";
  fs::rename(write_small(folder.path(), 1), moved);
  EXPECT_NO_THROW(verify_checkpoint(moved));
  EXPECT_TRUE(testing::reads_back(moved));
  EXPECT_EQ(mismatches_through_hdf5(moved / "model.h5"), 0);
}

TEST(Checkpoint, ReadsTheWeightsAlone) {
  const TemporaryFolder folder;
  const fs::path checkpoint = write_small(folder.path(), 1);
  TestShard shard(small_model(), 0, 1, /*filled=*/false);
  CheckpointShard view = shard.view();
  view.first_moment = {};
  view.second_moment = {};
  read_checkpoint(checkpoint, view);
  const CheckpointRange& last = view.ranges.back();
  EXPECT_EQ(view.master[static_cast<size_t>(last.offset)], value_of(last.parameter, 0, 0));
}

TEST(Checkpoint, ReadsAModelWhoseParametersComeInAnotherOrder) {
  const TemporaryFolder folder;
  const fs::path checkpoint = write_small(folder.path(), 1);
  std::vector<CheckpointParameter> parameters = small_model();
  std::swap(parameters[1], parameters[2]);
  TestShard shard(parameters, 0, 1, /*filled=*/false);
  const CheckpointShard view = shard.view();
  read_checkpoint(checkpoint, view);
  for (const CheckpointRange& range : view.ranges) {
    const size_t stored = range.parameter == 1 ? 2 : range.parameter == 2 ? 1 : range.parameter;
    EXPECT_EQ(view.master[static_cast<size_t>(range.offset)], value_of(stored, 0, 0));
  }
}

TEST(Checkpoint, OfAnotherModelIsRefusedByParameterAndShapes) {
  const TemporaryFolder folder;
  const fs::path checkpoint = write_small(folder.path(), 1);
  const auto error_for = [&](const std::vector<CheckpointParameter>& model) {
    TestShard shard(model, 0, 1, /*filled=*/false);
    return checkpoint_error([&] { read_checkpoint(checkpoint, shard.view()); });
  };
  std::vector<CheckpointParameter> other = small_model();
  other[2].shape = {13, 11};
  EXPECT_THAT(error_for(other),
              AllOf(HasSubstr(checkpoint.string()),
                    HasSubstr("model.layers.0.attn.q_proj.weight has shape [11, 13], in the model "
                              "it has [13, 11]"),
                    HasSubstr("checkpoint of another model")));
  other = small_model();
  other.pop_back();
  EXPECT_THAT(error_for(other),
              HasSubstr("holds parameter lm_head.weight [37, 13], which the model has not"));
  other = small_model();
  other.push_back({"model.layers.1.attn_norm.weight", {13}});
  EXPECT_THAT(error_for(other),
              HasSubstr("model.layers.1.attn_norm.weight [13] of the model is not in it"));
}

// Limits the size of files that this process may write, while it lives: to a program it is as if
// the disk were full.
class FullDisk {
 public:
  explicit FullDisk(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FullDisk() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  FullDisk(const FullDisk&) = delete;
  FullDisk& operator=(const FullDisk&) = delete;

 private:
  rlimit before_{};
  void (*handler_)(int);
};

TEST(Checkpoint, AFullDiskLeavesEarlierCheckpointsAndNoDebris) {
  const TemporaryFolder folder;
  const fs::path earlier = write_small(folder.path(), 1);
  // Full before the first byte, in a rank's file, in model.h5 and in the manifest.
  const uintmax_t rank_bytes = fs::file_size(earlier / "rank-0000.h5");
  const std::array<uintmax_t, 3> limits{0, rank_bytes / 2, rank_bytes};
  for (const uintmax_t limit : limits) {
    std::string error;
    {
      const FullDisk full(limit);
      error = checkpoint_error([&] { write_small(folder.path(), 2); });
    }
    EXPECT_THAT(error, AllOf(HasSubstr("step-00000002.partial"), HasSubstr("File too large"),
                             HasSubstr("free space")))
        << "limit " << limit;
    EXPECT_EQ(list_checkpoints(folder.path()), std::vector<fs::path>{earlier});
    EXPECT_FALSE(fs::exists(folder.path() / "step-00000002.partial"));
  }
  EXPECT_NO_THROW(verify_checkpoint(earlier));
  EXPECT_TRUE(testing::reads_back(write_small(folder.path(), 2)));  // there is room again
}

}  // namespace
}  // namespace gsa
