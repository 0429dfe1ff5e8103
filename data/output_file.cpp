#include "data/output_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "data/error.h"

namespace gsa::data {
namespace {

[[noreturn]] void fail(const std::filesystem::path& path, const char* action, int cause) {
  const char* remedy = "check the folder's permissions";
  if (cause == ENOSPC || cause == EDQUOT || cause == EFBIG) {
    remedy = "free some space and run the same command again: finished files are kept";
  } else if (cause == EWOULDBLOCK) {
    remedy = "another program is writing it; wait for that one, or choose another folder";
  }
  throw OutputError(
      fmt::format("{}: cannot {}: {}; {}", path.string(), action, std::strerror(cause), remedy));
}

void write_all(const std::filesystem::path& path, int file, std::span<const std::byte> bytes,
               uint64_t offset) {
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(file, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) fail(path, "write", written < 0 ? errno : ENOSPC);
    bytes = bytes.subspan(static_cast<size_t>(written));
    offset += static_cast<uint64_t>(written);
  }
}

void flush_folder(const std::filesystem::path& folder) {
  // Makes the rename itself last; file systems that cannot do it for folders are left alone.
  const int handle = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (handle < 0) return;
  ::fsync(handle);
  ::close(handle);
}

/// Whether `file` is still what lies at `path`.
bool still_there(int file, const std::filesystem::path& path) {
  struct stat opened {};
  struct stat named {};
  return ::fstat(file, &opened) == 0 && ::stat(path.c_str(), &named) == 0 &&
         opened.st_ino == named.st_ino && opened.st_dev == named.st_dev;
}

}  // namespace

OutputFile::OutputFile(std::filesystem::path path, Contention contention)
    : path_(std::move(path)), temporary_(path_.string() + ".tmp") {
  open_locked(contention);
  if (::ftruncate(file_, 0) != 0) {  // what a killed run left behind
    const int cause = errno;
    ::close(file_);
    fail(temporary_, "empty", cause);
  }
}

void OutputFile::open_locked(Contention contention) {
  constexpr mode_t kMode = 0644;
  const int how = contention == Contention::wait ? LOCK_EX : LOCK_EX | LOCK_NB;
  // Between opening and locking, another program may have finished the file and renamed it: what
  // was opened is then its result, not to be touched.
  while (true) {
    file_ = ::open(temporary_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, kMode);
    if (file_ < 0) fail(temporary_, "create", errno);
    // A file system without locks is written without.
    const bool taken = ::flock(file_, how) != 0 && errno == EWOULDBLOCK;
    if (!taken && still_there(file_, temporary_)) return;
    ::close(file_);
    if (taken) fail(temporary_, "lock", EWOULDBLOCK);
  }
}

OutputFile::~OutputFile() {
  if (file_ < 0) return;
  ::unlink(temporary_.c_str());
  ::close(file_);
}

void OutputFile::append(std::span<const std::byte> bytes) {
  write_all(temporary_, file_, bytes, size_);
  size_ += bytes.size();
}

void OutputFile::append(std::string_view text) {
  append(std::as_bytes(std::span(text)));
}

void OutputFile::write_at(uint64_t offset, std::span<const std::byte> bytes) {
  write_all(temporary_, file_, bytes, offset);
}

void OutputFile::commit() {
  if (::fsync(file_) != 0) fail(temporary_, "flush to the disk", errno);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail(path_, "rename into place", errno);
  const int file = std::exchange(file_, -1);
  if (::close(file) != 0) fail(path_, "close", errno);
  flush_folder(path_.parent_path());
}

void write_file(const std::filesystem::path& path, std::string_view text) {
  OutputFile file(path, Contention::wait);
  file.append(text);
  file.commit();
}

}  // namespace gsa::data
