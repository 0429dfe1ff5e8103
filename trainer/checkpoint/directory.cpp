// The checkpoints of a run: which there are, which to use, which to delete.
#include <algorithm>
#include <charconv>
#include <string_view>
#include <system_error>

#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/files.h"
#include "trainer/checkpoint/manifest.h"
#include "trainer/checkpoint/stages.h"

namespace gsa {
namespace {

namespace fs = std::filesystem;

// The step of a folder named like a checkpoint.
std::optional<int64_t> step_of(const fs::path& folder) {
  const std::string name = folder.filename().string();
  constexpr std::string_view prefix = "step-";
  if (!name.starts_with(prefix)) {
    return std::nullopt;
  }
  int64_t step = 0;
  const char* end = name.data() + name.size();
  const auto [rest, error] = std::from_chars(name.data() + prefix.size(), end, step);
  if (error != std::errc() || rest != end ||
      checkpoint_folder(folder.parent_path(), step) != folder) {
    return std::nullopt;
  }
  return step;
}

std::vector<fs::path> folders_in(const fs::path& directory) {
  std::vector<fs::path> folders;
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    std::error_code ignored;
    if (entry->is_directory(ignored)) {
      folders.push_back(entry->path());
    }
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    throw CheckpointError(directory.string() + ": cannot be read: " + error.message());
  }
  return folders;
}

// When the manifest was written; the beginning of time if there is none.
fs::file_time_type written_at(const fs::path& checkpoint) {
  std::error_code error;
  const fs::file_time_type time = fs::last_write_time(checkpoint / manifest_name, error);
  return error ? fs::file_time_type::min() : time;
}

}  // namespace

std::vector<fs::path> list_checkpoints(const fs::path& directory) {
  std::vector<std::pair<int64_t, fs::path>> found;
  for (const fs::path& folder : folders_in(directory)) {
    if (const std::optional<int64_t> step = step_of(folder)) {
      found.emplace_back(*step, folder);
    }
  }
  std::sort(found.begin(), found.end());
  std::vector<fs::path> checkpoints;
  checkpoints.reserve(found.size());
  for (const auto& [step, folder] : found) {
    checkpoints.push_back(folder);
  }
  return checkpoints;
}

std::optional<fs::path> newest_whole_checkpoint(const fs::path& directory,
                                                const DamagedCheckpoint& on_damaged) {
  const std::vector<fs::path> checkpoints = list_checkpoints(directory);
  for (auto folder = checkpoints.rbegin(); folder != checkpoints.rend(); ++folder) {
    try {
      verify_checkpoint(*folder);
      return *folder;
    } catch (const CheckpointError& error) {
      if (on_damaged) {
        on_damaged(*folder, error.what());
      }
    }
  }
  return std::nullopt;
}

std::vector<fs::path> set_aside_after(const fs::path& directory, int64_t step) {
  std::vector<fs::path> names;
  for (const fs::path& folder : list_checkpoints(directory)) {
    if (*step_of(folder) > step) {
      fs::path name = folder;
      name += ".abandoned";
      remove_folder(name);  // of an earlier return
      std::error_code error;
      fs::rename(folder, name, error);
      if (error) {
        throw CheckpointError(folder.string() + ": cannot be set aside: " + error.message());
      }
      names.push_back(name);
    }
  }
  return names;
}

void apply_retention(const fs::path& directory, int64_t keep, int64_t keep_every) {
  for (const fs::path& folder : folders_in(directory)) {
    fs::path whole = folder;
    if (folder.extension() == ".partial" && step_of(whole.replace_extension())) {
      remove_folder(folder);
    }
  }
  const std::vector<fs::path> checkpoints = list_checkpoints(directory);
  const auto count = static_cast<int64_t>(checkpoints.size());
  if (keep <= 0 || count <= keep) {
    return;
  }
  const fs::path last_written = *std::max_element(
      checkpoints.begin(), checkpoints.end(),
      [](const fs::path& a, const fs::path& b) { return written_at(a) < written_at(b); });
  for (int64_t i = 0; i < count - keep; ++i) {
    const fs::path& folder = checkpoints[static_cast<size_t>(i)];
    const bool milestone = keep_every > 0 && *step_of(folder) % keep_every == 0;
    if (!milestone && folder != last_written) {
      // Out of the list first: an interruption must not leave half of a checkpoint in it.
      const fs::path doomed = partial_folder(folder);
      std::error_code error;
      fs::rename(folder, doomed, error);
      remove_folder(error ? folder : doomed);
    }
  }
}

}  // namespace gsa
