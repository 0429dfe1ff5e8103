// A small model, its shares among ranks, and folders for the tests of checkpoints.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "trainer/checkpoint/checkpoint.h"

namespace gsa::testing {

// A fresh folder, removed with all in it at the end.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// Matrices and vectors with odd sizes, one of three dimensions, and one of a single element.
std::vector<CheckpointParameter> small_model();

// What element `index` of parameter `parameter` holds in flat buffer `kind` (0: master, 1: first,
// 2: second moment): another value for each.
float value_of(size_t parameter, int64_t index, int kind);

// One rank's share of a model and its buffers.
class TestShard {
 public:
  // The part of rank `rank` when all elements, one parameter after the other, are cut into `ranks`
  // parts of nearly one size: cuts fall in the middle of rows, vectors and matrices. A gap in front
  // of each range makes offsets differ from positions. `filled`: with value_of, else with zeros.
  TestShard(std::vector<CheckpointParameter> parameters, int rank, int ranks, bool filled);

  CheckpointShard view();
  // Values that are not those of value_of, counted over all buffers.
  int64_t mismatches() const;

 private:
  std::vector<CheckpointParameter> parameters_;
  std::vector<CheckpointRange> ranges_;
  std::vector<std::vector<float>> buffers_;
};

CheckpointMetadata metadata_at(int64_t step);

// Writes the small model at a step from one rank. Returns the folder.
std::filesystem::path write_small(const std::filesystem::path& directory, int64_t step);

// Whether a checkpoint gives back the small model, read as one rank.
bool reads_back(const std::filesystem::path& checkpoint);

// Values in model.h5 that are not those of the small model, its names and shapes included, as any
// HDF5 tool reads them: whole arrays through plain calls.
int64_t mismatches_through_hdf5(const std::filesystem::path& model_file);

// The text of the CheckpointError that `action` throws; "" if it throws none.
template <typename Action>
std::string checkpoint_error(Action&& action) {
  try {
    action();
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "";
}

}  // namespace gsa::testing
