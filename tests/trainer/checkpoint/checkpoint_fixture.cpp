#include "tests/trainer/checkpoint/checkpoint_fixture.h"

#include <hdf5.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <numeric>
#include <stdexcept>
#include <utility>

namespace gsa::testing {
namespace {

namespace fs = std::filesystem;

constexpr int kinds = 3;          // master and two moments
constexpr int64_t gap = 5;        // elements between ranges that belong to no parameter
constexpr float unused = -12345;  // what lies in the gaps

int64_t count_of(const CheckpointParameter& parameter) {
  return std::accumulate(parameter.shape.begin(), parameter.shape.end(), int64_t{1},
                         std::multiplies<>());
}

// Values of one dataset that are not the parameter's; all of them if it has another shape.
int64_t dataset_mismatches(hid_t file, const std::string& name, const CheckpointParameter& wanted,
                           size_t parameter, int kind) {
  const int64_t count = count_of(wanted);
  const hid_t dataset = H5Dopen2(file, name.c_str(), H5P_DEFAULT);
  if (dataset < 0) {
    return count;
  }
  const hid_t space = H5Dget_space(dataset);
  std::vector<hsize_t> dims(wanted.shape.size());
  int64_t wrong = count;
  if (H5Sget_simple_extent_ndims(space) == static_cast<int>(dims.size()) &&
      H5Sget_simple_extent_dims(space, dims.data(), nullptr) > 0 &&
      std::equal(dims.begin(), dims.end(), wanted.shape.begin())) {
    std::vector<float> values(static_cast<size_t>(count));
    H5Dread(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data());
    wrong = 0;
    for (int64_t i = 0; i < count; ++i) {
      wrong += values[static_cast<size_t>(i)] != value_of(parameter, i, kind) ? 1 : 0;
    }
  }
  H5Sclose(space);
  H5Dclose(dataset);
  return wrong;
}

}  // namespace

TemporaryFolder::TemporaryFolder() {
  std::string name = (fs::temp_directory_path() / "gsa-test-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) {
    throw std::runtime_error("no temporary folder");
  }
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

std::vector<CheckpointParameter> small_model() {
  return {{"model.embeddings.weight", {37, 13}},
          {"model.layers.0.attn_norm.weight", {13}},
          {"model.layers.0.attn.q_proj.weight", {11, 13}},
          {"model.layers.0.conv.weight", {7, 3, 5}},
          {"model.layers.0.scale", {1}},
          {"lm_head.weight", {37, 13}}};
}

float value_of(size_t parameter, int64_t index, int kind) {
  constexpr int64_t most_elements = 1000;  // all values are whole and exact in float32
  return static_cast<float>((static_cast<int64_t>(parameter) * kinds + kind) * most_elements +
                            index + 1);
}

TestShard::TestShard(std::vector<CheckpointParameter> parameters, int rank, int ranks, bool filled)
    : parameters_(std::move(parameters)), buffers_(kinds) {
  int64_t total = 0;
  for (const CheckpointParameter& parameter : parameters_) {
    total += count_of(parameter);
  }
  const int64_t own_begin = total * rank / ranks;
  const int64_t own_end = total * (rank + 1) / ranks;
  int64_t position = 0;
  int64_t offset = 0;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const int64_t count = count_of(parameters_[i]);
    const int64_t begin = std::clamp<int64_t>(own_begin - position, 0, count);
    const int64_t end = std::clamp<int64_t>(own_end - position, 0, count);
    if (begin < end) {
      offset += gap;
      ranges_.push_back({i, begin, end, offset});
      offset += end - begin;
    }
    position += count;
  }
  for (int kind = 0; kind < kinds; ++kind) {
    std::vector<float>& buffer = buffers_[static_cast<size_t>(kind)];
    buffer.assign(static_cast<size_t>(offset), unused);
    for (const CheckpointRange& range : ranges_) {
      for (int64_t i = range.begin; i < range.end; ++i) {
        buffer[static_cast<size_t>(range.offset + i - range.begin)] =
            filled ? value_of(range.parameter, i, kind) : 0;
      }
    }
  }
}

CheckpointShard TestShard::view() {
  return {parameters_, ranges_, buffers_[0], buffers_[1], buffers_[2]};
}

int64_t TestShard::mismatches() const {
  int64_t wrong = 0;
  for (int kind = 0; kind < kinds; ++kind) {
    const std::vector<float>& buffer = buffers_[static_cast<size_t>(kind)];
    for (const CheckpointRange& range : ranges_) {
      for (int64_t i = range.begin; i < range.end; ++i) {
        const float value = buffer[static_cast<size_t>(range.offset + i - range.begin)];
        wrong += value != value_of(range.parameter, i, kind) ? 1 : 0;
      }
    }
    wrong += std::count(buffer.begin(), buffer.end(), unused) !=
                     static_cast<int64_t>(ranges_.size()) * gap
                 ? 1
                 : 0;  // something was written into a gap
  }
  return wrong;
}

CheckpointMetadata metadata_at(int64_t step) {
  CheckpointMetadata metadata;
  metadata.step = step;
  metadata.optimizer_step = step - 1;
  metadata.tokens_seen = step * 1024;
  metadata.next_sample = step * 8;
  metadata.seed = -7;
  metadata.config = "run:\n  name: \"tést\\n\"\n\ttab\x01\n";
  metadata.versions = {{"gsa", "0.1.0"}, {"compiler", "gcc \"12\""}};
  metadata.product_library = "NVIDIA H200, cuBLASLt 130100";
  metadata.products = {{"16384_2048_1", "00ff"}, {"32_8_1", "1234"}};
  return metadata;
}

fs::path write_small(const fs::path& directory, int64_t step) {
  TestShard shard(small_model(), 0, 1, /*filled=*/true);
  return write_checkpoint(*make_single_communicator(), directory, metadata_at(step), shard.view());
}

int64_t mismatches_through_hdf5(const fs::path& model_file) {
  const hid_t file = H5Fopen(model_file.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  const std::array groups{"/parameters/", "/first_moment/", "/second_moment/"};
  const std::vector<CheckpointParameter> parameters = small_model();
  int64_t wrong = 0;
  for (size_t kind = 0; kind < groups.size(); ++kind) {
    for (size_t i = 0; i < parameters.size(); ++i) {
      wrong += dataset_mismatches(file, groups[kind] + parameters[i].name, parameters[i], i,
                                  static_cast<int>(kind));
    }
  }
  H5Fclose(file);
  return wrong;
}

bool reads_back(const fs::path& checkpoint) {
  TestShard shard(small_model(), 0, 1, /*filled=*/false);
  read_checkpoint(checkpoint, shard.view());
  return shard.mismatches() == 0;
}

}  // namespace gsa::testing
