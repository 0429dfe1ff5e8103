// Writing and reading of one checkpoint.
#include "trainer/checkpoint/checkpoint.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>

#include "trainer/checkpoint/files.h"
#include "trainer/checkpoint/manifest.h"
#include "trainer/checkpoint/model_file.h"
#include "trainer/checkpoint/rank_file.h"
#include "trainer/checkpoint/stages.h"

namespace gsa {
namespace {

namespace fs = std::filesystem;

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  }
  return text + "]";
}

// Throws unless the checkpoint's parameters are the model's; their order may differ. Returns the
// model's index of each of the checkpoint's parameters.
std::vector<size_t> match_parameters(const fs::path& checkpoint,
                                     std::span<const CheckpointParameter> stored,
                                     std::span<const CheckpointParameter> wanted) {
  const std::string remedy =
      "; this is a checkpoint of another model: resume with its configuration";
  std::map<std::string, size_t> index;
  for (size_t i = 0; i < wanted.size(); ++i) {
    index[wanted[i].name] = i;
  }
  std::vector<size_t> match;
  for (const CheckpointParameter& parameter : stored) {
    const auto found = index.find(parameter.name);
    if (found == index.end()) {
      throw CheckpointError(checkpoint.string() + ": holds parameter " + parameter.name + " " +
                            shape_text(parameter.shape) + ", which the model has not" + remedy);
    }
    const CheckpointParameter& ours = wanted[found->second];
    if (ours.shape != parameter.shape) {
      throw CheckpointError(checkpoint.string() + ": parameter " + parameter.name + " has shape " +
                            shape_text(parameter.shape) + ", in the model it has " +
                            shape_text(ours.shape) + remedy);
    }
    match.push_back(found->second);
    index.erase(found);
  }
  if (!index.empty()) {
    const CheckpointParameter& absent = wanted[index.begin()->second];
    throw CheckpointError(checkpoint.string() + ": parameter " + absent.name + " " +
                          shape_text(absent.shape) + " of the model is not in it" + remedy);
  }
  return match;
}

}  // namespace

fs::path write_checkpoint(Communicator& communicator, const fs::path& directory,
                          const CheckpointMetadata& metadata, const CheckpointShard& shard) {
  CheckpointWrite writing(communicator, directory, metadata, shard, /*wait_for_values=*/nullptr,
                          /*when_whole=*/nullptr);
  while (!writing.advance()) {
    std::this_thread::sleep_for(wait_between_polls);
  }
  return writing.folder();
}

CheckpointMetadata read_metadata(const fs::path& checkpoint) {
  return read_manifest(checkpoint).metadata;
}

void verify_checkpoint(const fs::path& checkpoint) {
  const Manifest manifest = read_manifest(checkpoint);
  std::atomic<size_t> next = 0;
  std::mutex mutex;
  std::string first_error;
  const auto verify_some = [&] {
    for (size_t i = next++; i < manifest.files.size(); i = next++) {
      const ManifestFile& file = manifest.files[i];
      const fs::path path = checkpoint / file.name;
      std::string error;
      try {
        if (digest_file(path) != file.digest) {
          error = path.string() +
                  ": its bytes are not those that were written (checksum); the checkpoint is "
                  "damaged: use an earlier one";
        }
      } catch (const std::exception& failure) {
        error = failure.what();
      }
      const std::lock_guard lock(mutex);
      if (first_error.empty()) {
        first_error = error;
      }
    }
  };
  const size_t threads =
      std::clamp<size_t>(std::thread::hardware_concurrency(), 1, manifest.files.size());
  std::vector<std::jthread> helpers(threads - 1);
  std::generate(helpers.begin(), helpers.end(), [&] { return std::jthread(verify_some); });
  verify_some();
  helpers.clear();  // joins them
  if (!first_error.empty()) {
    throw CheckpointError(first_error);
  }
}

std::vector<CheckpointParameter> read_parameters(const fs::path& checkpoint) {
  return read_manifest(checkpoint).parameters;
}

void read_checkpoint(const fs::path& checkpoint, const CheckpointShard& shard) {
  check_shard(shard, /*moments_required=*/false);
  const Manifest manifest = read_manifest(checkpoint);
  const std::vector<CheckpointParameter>& stored = manifest.parameters;
  const std::vector<size_t> model_index = match_parameters(checkpoint, stored, shard.parameters);

  // The shard in the order of the checkpoint's parameters.
  std::vector<size_t> stored_index(model_index.size());
  for (size_t i = 0; i < model_index.size(); ++i) {
    stored_index[model_index[i]] = i;
  }
  std::vector<CheckpointRange> ranges(shard.ranges.begin(), shard.ranges.end());
  int64_t wanted = 0;
  for (CheckpointRange& range : ranges) {
    range.parameter = stored_index[range.parameter];
    wanted += range.end - range.begin;
  }
  std::sort(ranges.begin(), ranges.end(), [](const CheckpointRange& a, const CheckpointRange& b) {
    return a.parameter < b.parameter;
  });
  CheckpointShard reordered = shard;
  reordered.parameters = stored;
  reordered.ranges = ranges;

  const std::vector<int64_t> counts = element_counts(stored);
  int64_t copied = 0;
  for (const ManifestFile& file : std::span(manifest.files).first(manifest.files.size() - 1)) {
    copied += read_rank_file(checkpoint / file.name, file.parts, counts, reordered);
  }
  if (copied != wanted) {
    throw CheckpointError(checkpoint.string() + ": its files hold " + std::to_string(copied) +
                          " of the " + std::to_string(wanted) +
                          " elements that are wanted; the checkpoint is damaged: use an earlier "
                          "one");
  }
}

}  // namespace gsa
