#include "trainer/run_folder.h"

#include <fmt/format.h>

#include <system_error>

#include "trainer/checkpoint/checkpoint.h"
#include "trainer/config/error.h"
#include "trainer/metrics/line_file.h"
#include "trainer/metrics/log.h"

namespace gsa {
namespace {

void report_damaged(const std::filesystem::path& checkpoint, const std::string& what) {
  log_warning(fmt::format("{} is damaged and is passed over: {}", checkpoint.string(), what));
}

[[noreturn]] void refuse(const std::filesystem::path& path, const std::error_code& error) {
  throw ConfigError(
      fmt::format("{}: cannot be written: {}; choose another run.directory or run.name",
                  path.string(), error.message()));
}

}  // namespace

void RunFolder::create() const {
  std::error_code error;
  std::filesystem::create_directories(checkpoints(), error);
  if (error) {
    refuse(path, error);
  }
}

void RunFolder::write_config(const Config& resolved) const {
  try {
    replace_file(config(), to_yaml(resolved), /*durable=*/true);
  } catch (const std::system_error& error) {
    refuse(config(), error.code());
  }
}

std::optional<std::filesystem::path> choose_checkpoint(const RunFolder& folder,
                                                       const std::string& request) {
  if (request == "auto") {
    auto newest = newest_whole_checkpoint(folder.checkpoints(), report_damaged);
    if (const auto all = list_checkpoints(folder.checkpoints()); !newest && !all.empty()) {
      throw CheckpointError(
          fmt::format("{}: none of its {} checkpoints can be used, as told above; a fresh start "
                      "would do away with this run's metrics: choose another run.name, or move its "
                      "folder",
                      folder.path.string(), all.size()));
    }
    return newest;
  }
  if (request != "none") {
    const std::filesystem::path chosen = find_checkpoint(request);
    std::error_code ignored;
    if (std::filesystem::equivalent(chosen.parent_path(), folder.checkpoints(), ignored)) {
      for (const auto& name : set_aside_after(folder.checkpoints(), read_metadata(chosen).step)) {
        log_warning(fmt::format("the run goes back behind a checkpoint, which is set aside: {}",
                                name.string()));
      }
    }
    return chosen;
  }
  if (!list_checkpoints(folder.checkpoints()).empty()) {
    throw ConfigError(fmt::format(
        "{} holds checkpoints of an earlier start: go on with --resume auto, or choose another "
        "run.name",
        folder.path.string()));
  }
  return std::nullopt;
}

std::filesystem::path find_checkpoint(const std::filesystem::path& path) {
  if (std::filesystem::exists(path / "manifest.json")) {
    verify_checkpoint(path);
    return path;
  }
  const RunFolder folder{path};
  std::optional<std::filesystem::path> newest;
  if (std::filesystem::is_directory(folder.checkpoints())) {
    newest = newest_whole_checkpoint(folder.checkpoints(), report_damaged);
  }
  if (!newest) {
    throw CheckpointError(
        fmt::format("{}: no whole checkpoint there; give the folder of a run or of a checkpoint "
                    "(runs/NAME/checkpoints/step-...)",
                    path.string()));
  }
  return *newest;
}

}  // namespace gsa
