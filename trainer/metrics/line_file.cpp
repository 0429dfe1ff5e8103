#include "trainer/metrics/line_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <system_error>

namespace gsa {
namespace {

constexpr mode_t kFileMode = 0644;

[[noreturn]] void fail_system(int code, std::string_view what, const std::filesystem::path& path) {
  throw std::system_error(code, std::generic_category(), fmt::format("{} {}", what, path.string()));
}

int open_file(const std::filesystem::path& path, int flags) {
  const int file = open(path.c_str(), flags | O_CLOEXEC, kFileMode);
  if (file < 0) fail_system(errno, "cannot open", path);
  return file;
}

void sync_path(const std::filesystem::path& path, int flags) {
  const int file = open_file(path, flags);
  const int code = fsync(file) == 0 ? 0 : errno;
  close(file);
  // Some file systems cannot sync a folder; a rename is atomic all the same.
  if (code != 0 && code != EINVAL) fail_system(code, "cannot write", path);
}

}  // namespace

LineFile::LineFile(std::filesystem::path path)
    : path_(std::move(path)), file_(open_file(path_, O_WRONLY | O_CREAT | O_APPEND)) {}

LineFile::~LineFile() {
  if (file_ >= 0) close(file_);
}

void LineFile::append(const std::string& line) {
  pending_ += line + '\n';
  flush();
}

void LineFile::flush() {
  if (pending_.empty()) return;
  struct stat before {};
  if (fstat(file_, &before) != 0) fail_system(errno, "cannot write", path_);
  // One call: the lines are in the file whole, or (on a full disk) cut short and taken back.
  errno = 0;
  const ssize_t written = ::write(file_, pending_.data(), pending_.size());
  if (written == static_cast<ssize_t>(pending_.size())) {
    pending_.clear();
    return;
  }
  const int code = errno != 0 ? errno : ENOSPC;
  const bool taken_back = ftruncate(file_, before.st_size) == 0;
  fail_system(code, taken_back ? "cannot append a line to" : "cannot append a line (cut short) to",
              path_);
}

void LineFile::sync() {
  flush();
  if (fsync(file_) != 0 && errno != EINVAL) fail_system(errno, "cannot write", path_);
}

void replace_file(const std::filesystem::path& path, const std::string& content, bool durable) {
  const std::filesystem::path temporary = path.string() + ".tmp";
  std::ofstream out(temporary, std::ios::binary | std::ios::trunc);
  out << content << std::flush;
  if (!out) fail_system(errno, "cannot write", temporary);
  out.close();
  if (durable) sync_path(temporary, O_WRONLY);
  std::error_code error;
  std::filesystem::rename(temporary, path, error);
  if (error) fail_system(error.value(), "cannot replace", path);
  if (durable) sync_path(std::filesystem::absolute(path).parent_path(), O_RDONLY | O_DIRECTORY);
}

}  // namespace gsa
