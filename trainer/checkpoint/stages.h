// The stages in which a checkpoint is written. Each is work of one rank alone, on a thread of its
// own and without any communication; between them the ranks tell each other how it went. For this
// folder only.
//
//   every rank   waits for its values, check_shard, and rank 0: begin_folder
//   every rank   write_part
//   rank 0       finish_folder
//   rank 0       abandon_folder, if any of them failed anywhere
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <future>
#include <optional>
#include <string>
#include <vector>

#include "trainer/checkpoint/checkpoint.h"
#include "trainer/distributed/communicator.h"

namespace gsa {

// A piece of work that every rank does at the same time, each on a thread. Destroying it waits for
// this rank's thread.
class CollectiveStage {
 public:
  // Starts this rank's work. Its text goes to all ranks, likewise the text of an exception.
  explicit CollectiveStage(std::function<std::string()> work);

  // Exchanges how far the ranks are; collective, and quick. Nothing while any of them works; then
  // their texts in rank order, or the same CheckpointError on every rank if any failed.
  std::optional<std::vector<std::string>> poll(Communicator& communicator);

 private:
  std::future<std::string> result_;  // this rank's, until it is there
  std::string outcome_;              // this rank's, as it goes to the others
};

// The writing of one checkpoint, stage by stage.
class CheckpointWrite {
 public:
  // Begins; collective in so far as every rank must do it. What the shard refers to must be there
  // when `wait_for_values`, called on the rank's thread, returns (it may be empty), and stay as it
  // is until the writing is done. Rank 0 calls `when_whole` (it may be empty) on its thread as soon
  // as the folder has its name.
  CheckpointWrite(Communicator& communicator, const std::filesystem::path& directory,
                  const CheckpointMetadata& metadata, const CheckpointShard& shard,
                  std::function<void()> wait_for_values, std::function<void()> when_whole);
  CheckpointWrite(const CheckpointWrite&) = delete;
  CheckpointWrite& operator=(const CheckpointWrite&) = delete;

  // Goes on to the next stage if all ranks are done with this one; collective, and quick. True when
  // the checkpoint is whole. Throws the same CheckpointError on every rank if any rank failed,
  // after removing the debris; then the writing is over.
  bool advance();

  const std::filesystem::path& folder() const { return folder_; }

 private:
  enum class Stage : uint8_t { begin, parts, finish };
  bool is_leader() const { return communicator_->rank() == 0; }
  void run(Stage stage, std::function<std::string()> work);
  void next(const std::vector<std::string>& texts);

  Communicator* communicator_;
  std::filesystem::path folder_;
  CheckpointMetadata metadata_;
  CheckpointShard shard_;
  std::function<void()> when_whole_;
  Stage stage_ = Stage::begin;
  std::optional<CollectiveStage> running_;
};

// Between two looks at a writing that is waited for.
inline constexpr std::chrono::milliseconds wait_between_polls{2};

// "DIRECTORY/step-00001000", and with ".partial" while it is being written.
std::filesystem::path checkpoint_folder(const std::filesystem::path& directory, int64_t step);
std::filesystem::path partial_folder(const std::filesystem::path& folder);

// Throws CheckpointError unless the buffers of a shard fit each other and its ranges fit both them
// and the parameters. For reading, the moments may be empty.
void check_shard(const CheckpointShard& shard, bool moments_required);

// Makes the empty partial folder.
void begin_folder(const std::filesystem::path& folder);
// Writes this rank's file into the partial folder. Returns the file's line for the manifest, as
// text for finish_folder.
std::string write_part(const std::filesystem::path& folder, int rank, const CheckpointShard& shard);
// Writes model.h5 and the manifest, and gives the folder its name.
void finish_folder(const std::filesystem::path& folder, CheckpointMetadata metadata,
                   std::span<const CheckpointParameter> parameters,
                   std::span<const std::string> parts);
// Removes the partial folder; never throws, because it follows an error.
void abandon_folder(const std::filesystem::path& folder) noexcept;

}  // namespace gsa
