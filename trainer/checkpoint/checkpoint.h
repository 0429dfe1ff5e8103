// Checkpoints: `runs/NAME/checkpoints/step-00001000/`, HDF5 files written side by side by the
// ranks.
//
//   rank-0000.h5 ...  a rank's part of every parameter: float32 masters and AdamW moments, each one
//                     contiguous one-dimensional dataset, and the table of what lies where
//   model.h5          /parameters/NAME with its full shape for every parameter, as virtual datasets
//                     over the rank files (relative paths: the folder can move), readable by any
//                     HDF5 tool; likewise /first_moment/NAME and /second_moment/NAME; the metadata
//                     as attributes
//   manifest.json     written last: format version, metadata, the parameters' names and shapes,
//                     files with sizes, checksums and where their parts lie
//
// HDF5 writes the files, for any tool to read. This program reads them through the manifest,
// without HDF5, and believes neither: whatever the bytes are, they are a checkpoint or a
// CheckpointError.
//
// A checkpoint is written to `step-XXXXXXXX.partial`, flushed to disk and renamed: a folder with
// the final name is whole. It loads on any number of ranks. All ranks must share the folder.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "trainer/distributed/communicator.h"

namespace gsa {

// A checkpoint that cannot be read, written or used: names the file and the remedy.
class CheckpointError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A parameter as a checkpoint knows it.
struct CheckpointParameter {
  std::string name;
  std::vector<int64_t> shape;
};

// A contiguous part of one parameter that this rank holds: elements [begin, end) of the parameter,
// lying at `offset` of the rank's flat buffers.
struct CheckpointRange {
  size_t parameter = 0;  // index into the parameters
  int64_t begin = 0;
  int64_t end = 0;
  int64_t offset = 0;
};

// What is stored beside the parameters.
struct CheckpointMetadata {
  int64_t step = 0;            // optimizer steps done
  int64_t optimizer_step = 0;  // updates applied (skipped steps do not count)
  int64_t tokens_seen = 0;
  int64_t next_sample = 0;  // data position: global number of the next window
  int64_t seed = 0;
  std::vector<double> recent_losses;            // of the last steps that were applied, oldest first
  int ranks = 1;                                // that wrote it; filled in when written
  std::string config;                           // the resolved configuration, YAML
  std::map<std::string, std::string> versions;  // of the program and its libraries
  // What the run's matrix products were computed with (trainer/product_choices.h); words.
  std::string product_library;                  // that the algorithms are of; empty on the CPU
  std::map<std::string, std::string> products;  // algorithms by the names of products
};

// A rank's flat host buffers with what their elements are.
struct CheckpointShard {
  std::span<const CheckpointParameter> parameters;  // all of the model, the same on every rank
  std::span<const CheckpointRange> ranges;          // held by this rank; disjoint over the ranks
  std::span<float> master;
  std::span<float> first_moment;  // may be empty when only weights are wanted (reading)
  std::span<float> second_moment;
};

// Writes the checkpoint of metadata.step under `directory`; collective. Returns its folder, which
// is on the disk by then; a checkpoint of the same step that is there is replaced. The ranks'
// ranges must hold every element of every parameter once. Throws the same CheckpointError on every
// rank if any rank failed (a full disk, say), after removing the debris; earlier checkpoints are
// not touched.
std::filesystem::path write_checkpoint(Communicator& communicator,
                                       const std::filesystem::path& directory,
                                       const CheckpointMetadata& metadata,
                                       const CheckpointShard& shard);

// Reads manifest.json of a checkpoint folder and checks that the files it names are there with
// their sizes. Throws CheckpointError, also for one of another version of the format.
CheckpointMetadata read_metadata(const std::filesystem::path& checkpoint);
// Checks every byte of every file against the manifest's checksums, files in parallel. One byte
// that changed anywhere is a CheckpointError that names its file.
void verify_checkpoint(const std::filesystem::path& checkpoint);

// Names and shapes of the parameters in a checkpoint.
std::vector<CheckpointParameter> read_parameters(const std::filesystem::path& checkpoint);

// Fills `shard` from a checkpoint written by any number of ranks; each rank reads what it holds.
// Checksums are not looked at: see verify_checkpoint. Throws CheckpointError if names or shapes
// differ (a checkpoint of another model: says which parameter, both shapes).
void read_checkpoint(const std::filesystem::path& checkpoint, const CheckpointShard& shard);

// The newest checkpoint under `directory` that verifies; damaged ones are reported through
// `on_damaged(folder, what)` and skipped. Empty if there is none. For one rank, which tells the
// others: it reads every byte.
using DamagedCheckpoint =
    std::function<void(const std::filesystem::path& folder, const std::string& what)>;
std::optional<std::filesystem::path> newest_whole_checkpoint(const std::filesystem::path& directory,
                                                             const DamagedCheckpoint& on_damaged);

// "step-00001000": the name of a checkpoint's folder.
std::string checkpoint_name(int64_t step);

// Checkpoints with their final name under `directory`, oldest first, by step.
std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& directory);

// Renames the checkpoints after `step` to "step-XXXXXXXX.abandoned", so that no later start takes
// them for the newest: a run went back behind them. Returns their new names. For one rank, while
// none writes. Throws CheckpointError.
std::vector<std::filesystem::path> set_aside_after(const std::filesystem::path& directory,
                                                   int64_t step);

// Deletes checkpoints beyond the newest `keep` (0: keeps all), sparing steps that are multiples of
// `keep_every` (0: none), and always the newest and the one written last (after a return to an
// earlier step they differ); removes debris of interrupted writes. For one rank, while none writes.
void apply_retention(const std::filesystem::path& directory, int64_t keep, int64_t keep_every);

}  // namespace gsa
