// The stages in which a checkpoint is written. Each is work of one rank alone, without any
// communication; between them the ranks tell each other how it went (`agree`). For this folder
// only.
//
//   every rank   check_shard, and rank 0: begin_folder
//   every rank   write_part
//   rank 0       finish_folder
//   rank 0       abandon_folder, if any of them failed anywhere
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "trainer/checkpoint/checkpoint.h"
#include "trainer/distributed/communicator.h"

namespace gsa {

// How a stage went on one rank: what it has to say to the others, or why it failed.
struct StageOutcome {
  bool failed = false;
  std::string text;
};

// Runs a stage; exceptions become a failed outcome.
StageOutcome run_stage(const std::function<std::string()>& stage);

// Exchanges the outcomes of all ranks; collective. Returns the texts in rank order, or throws the
// same CheckpointError on every rank if any rank failed.
std::vector<std::string> agree(Communicator& communicator, const StageOutcome& own);

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
