// gsa inspect RUN: what happened to a run.
#pragma once

#include <filesystem>

namespace gsa {

// Prints steps and losses, every start with how it ended, skipped steps, checkpoints, and where the
// run is now. Returns the exit code; throws std::runtime_error for files that cannot be read.
int inspect_run(const std::filesystem::path& run);

}  // namespace gsa
