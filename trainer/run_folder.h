// Where a run's files lie.
//
//   runs/NAME/config.yaml      the resolved configuration
//   runs/NAME/metrics.jsonl    a line a step
//   runs/NAME/events.jsonl     a line a start, stop, checkpoint and skipped step, over all starts
//   runs/NAME/heartbeat.json   where the run is now
//   runs/NAME/checkpoints/     step-00001000/ and so on
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "trainer/config/config.h"

namespace gsa {

struct RunFolder {
  std::filesystem::path path;

  explicit RunFolder(std::filesystem::path folder) : path(std::move(folder)) {}
  explicit RunFolder(const RunConfig& config)
      : path(std::filesystem::path(config.directory) / config.name) {}

  std::filesystem::path config() const { return path / "config.yaml"; }
  std::filesystem::path metrics() const { return path / "metrics.jsonl"; }
  std::filesystem::path events() const { return path / "events.jsonl"; }
  std::filesystem::path heartbeat() const { return path / "heartbeat.json"; }
  std::filesystem::path checkpoints() const { return path / "checkpoints"; }

  // Makes the folders. Throws ConfigError with the path, the system's reason and the remedy.
  void create() const;
  // Writes the resolved configuration; throws likewise.
  void write_config(const Config& config) const;
};

// The checkpoint to start from. `request` is "none", "auto" (the newest whole one of the run; none
// only where the run has not any) or the path of a checkpoint or of a run. One of the run's own
// sets later ones aside: the run goes on from it, also at the next start with "auto". Throws
// ConfigError if a fresh start would overwrite a run that has checkpoints, CheckpointError for a
// path or a run without a whole one among them.
std::optional<std::filesystem::path> choose_checkpoint(const RunFolder& folder,
                                                       const std::string& request);

// The checkpoint that `path` names: itself, or the newest whole one of a run; every byte of it has
// been compared with its checksums. Throws CheckpointError.
std::filesystem::path find_checkpoint(const std::filesystem::path& path);

}  // namespace gsa
