#include "trainer/checkpoint/stages.h"

#include <algorithm>
#include <array>
#include <sstream>
#include <system_error>
#include <utility>

#include "trainer/checkpoint/files.h"
#include "trainer/checkpoint/hdf5_handles.h"
#include "trainer/checkpoint/manifest.h"
#include "trainer/checkpoint/model_file.h"
#include "trainer/checkpoint/rank_file.h"

namespace gsa {
namespace {

namespace fs = std::filesystem;

// First byte of an outcome on its way to the other ranks; no byte while there is none.
constexpr char done_mark = '+';
constexpr char failed_mark = '-';

// A rank's file on its way to rank 0, as text.
std::string text_of(const FileDigest& digest, const RankFileParts& parts) {
  std::ostringstream text;
  text << digest.bytes << " " << digest.xxh3 << " " << parts.elements << " " << parts.rows << " "
       << parts.ranges;
  for (const uint64_t offset : parts.buffers) {
    text << " " << offset;
  }
  return text.str();
}

ManifestFile parse_part(const std::string& name, const std::string& text) {
  ManifestFile file{.name = name};
  RankFileParts& parts = file.parts;
  std::istringstream numbers(text);
  numbers >> file.digest.bytes >> file.digest.xxh3 >> parts.elements >> parts.rows >> parts.ranges;
  for (uint64_t& offset : parts.buffers) {
    numbers >> offset;
  }
  return file;
}

std::string hdf5_version() {
  std::array<unsigned, 3> numbers{};
  H5get_libversion(numbers.data(), &numbers[1], &numbers[2]);
  return std::to_string(numbers[0]) + "." + std::to_string(numbers[1]) + "." +
         std::to_string(numbers[2]);
}

}  // namespace

CollectiveStage::CollectiveStage(std::function<std::string()> work)
    : result_(std::async(std::launch::async, std::move(work))) {}

std::optional<std::vector<std::string>> CollectiveStage::poll(Communicator& communicator) {
  if (result_.valid() && result_.wait_for(std::chrono::seconds(0)) == std::future_status::ready) {
    try {
      outcome_ = done_mark + result_.get();
    } catch (const std::exception& error) {
      outcome_ = failed_mark + std::string(error.what());
    }
  }
  std::vector<std::string> texts = communicator.all_gather_text(outcome_);
  for (const std::string& text : texts) {
    if (text.empty()) {
      return std::nullopt;  // a rank still works; not even another one's failure ends the stage
    }
  }
  for (std::string& text : texts) {
    if (text.front() == failed_mark) {
      throw CheckpointError(text.substr(1));
    }
    text.erase(0, 1);
  }
  return texts;
}

CheckpointWrite::CheckpointWrite(Communicator& communicator, const fs::path& directory,
                                 const CheckpointMetadata& metadata, const CheckpointShard& shard,
                                 std::function<void()> wait_for_values,
                                 std::function<void()> when_whole)
    : communicator_(&communicator),
      folder_(checkpoint_folder(directory, metadata.step)),
      metadata_(metadata),
      shard_(shard),
      when_whole_(std::move(when_whole)) {
  run(Stage::begin,
      [shard, folder = folder_, leads = is_leader(),
       wait = std::move(wait_for_values)]() -> std::string {
        if (wait) {
          wait();
        }
        check_shard(shard, /*moments_required=*/true);
        if (leads) {
          begin_folder(folder);
        }
        return "";
      });
}

bool CheckpointWrite::advance() {
  if (!running_) {
    return true;
  }
  try {
    const std::optional<std::vector<std::string>> texts = running_->poll(*communicator_);
    if (texts) {
      next(*texts);
    }
    return !running_;
  } catch (const CheckpointError&) {
    running_.reset();
    if (is_leader()) {
      abandon_folder(folder_);
    }
    throw;
  }
}

void CheckpointWrite::run(Stage stage, std::function<std::string()> work) {
  stage_ = stage;
  running_.emplace(std::move(work));
}

void CheckpointWrite::next(const std::vector<std::string>& texts) {
  if (stage_ == Stage::begin) {
    run(Stage::parts, [folder = folder_, rank = communicator_->rank(), shard = shard_] {
      return write_part(folder, rank, shard);
    });
  } else if (stage_ == Stage::parts) {
    run(Stage::finish, [this, texts, leads = is_leader()]() -> std::string {
      if (leads) {
        finish_folder(folder_, metadata_, shard_.parameters, texts);
        if (when_whole_) {
          when_whole_();
        }
      }
      return "";
    });
  } else {
    running_.reset();
  }
}

std::string checkpoint_name(int64_t step) {
  std::array<char, 40> name{};
  std::snprintf(name.data(), name.size(), "step-%08lld", static_cast<long long>(step));
  return name.data();
}

fs::path checkpoint_folder(const fs::path& directory, int64_t step) {
  return directory / checkpoint_name(step);
}

fs::path partial_folder(const fs::path& folder) {
  fs::path partial = folder;
  partial += ".partial";
  return partial;
}

void check_shard(const CheckpointShard& shard, bool moments_required) {
  const auto size = static_cast<int64_t>(shard.master.size());
  for (const std::span<float>& moment : {shard.first_moment, shard.second_moment}) {
    if (moment.size() != shard.master.size() && (moments_required || !moment.empty())) {
      throw CheckpointError(
          "the moments of a checkpoint must have as many elements as the master "
          "weights (" +
          std::to_string(size) + "), one has " + std::to_string(moment.size()));
    }
  }
  const std::vector<int64_t> counts = element_counts(shard.parameters);
  for (const CheckpointRange& range : shard.ranges) {
    if (range.parameter >= counts.size() || range.begin < 0 || range.end < range.begin ||
        range.end > counts[range.parameter] || range.offset < 0 ||
        range.offset > size - (range.end - range.begin)) {
      throw CheckpointError("a range of parameter " + std::to_string(range.parameter) +
                            " lies outside of the parameter or of the rank's buffers");
    }
  }
}

void begin_folder(const fs::path& folder) {
  const fs::path partial = partial_folder(folder);
  remove_folder(partial);
  std::error_code error;
  fs::create_directories(partial, error);
  if (error) {
    throw CheckpointError(partial.string() + ": cannot be created: " + error.message() +
                          "; the run needs a folder that it may write to");
  }
}

std::string write_part(const fs::path& folder, int rank, const CheckpointShard& shard) {
  const std::string name = rank_file_name(rank);
  const fs::path path = partial_folder(folder) / name;
  const WrittenRankFile written = write_rank_file(path, shard);
  return text_of(written.digest, written.parts);
}

void finish_folder(const fs::path& folder, CheckpointMetadata metadata,
                   std::span<const CheckpointParameter> parameters,
                   std::span<const std::string> parts) {
  const fs::path partial = partial_folder(folder);
  metadata.ranks = static_cast<int>(parts.size());
  metadata.versions["hdf5"] = hdf5_version();
  Manifest manifest{metadata, {parameters.begin(), parameters.end()}, {}};
  const std::vector<int64_t> counts = element_counts(parameters);
  std::vector<RankLayout> layouts;
  for (int rank = 0; rank < metadata.ranks; ++rank) {
    const ManifestFile file = parse_part(rank_file_name(rank), parts[static_cast<size_t>(rank)]);
    std::error_code error;
    if (fs::file_size(partial / file.name, error) != file.digest.bytes || error) {
      throw CheckpointError((partial / file.name).string() + ": rank 0 does not see what rank " +
                            std::to_string(rank) + " wrote; all ranks must share the run's folder");
    }
    layouts.push_back(read_rank_layout(partial / file.name, file.parts, counts));
    manifest.files.push_back(file);
  }
  const fs::path model = partial / model_file_name;
  write_file(model, model_image(metadata, parameters, layouts));
  manifest.files.push_back({model_file_name, digest_file(model), {}});
  const std::string text = manifest_text(manifest);
  write_file(partial / manifest_name, std::as_bytes(std::span(text)));
  sync_directory(partial);
  publish_folder(partial, folder);
}

void abandon_folder(const fs::path& folder) noexcept {
  std::error_code error;
  fs::remove_all(partial_folder(folder), error);
}

}  // namespace gsa
