#include "trainer/checkpoint/files.h"

#include <fcntl.h>
#include <stdio.h>  // renameat2
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cinttypes>
#include <memory>
#include <system_error>
#include <vector>

#include "trainer/checkpoint/checkpoint.h"

namespace gsa {
namespace {

namespace fs = std::filesystem;

// Read and written at a time.
constexpr size_t block_bytes = size_t{8} << 20;
constexpr mode_t file_mode = 0666;  // less the user's umask

[[noreturn]] void fail(const fs::path& path, const char* what, int error) {
  std::string remedy;
  if (error == ENOSPC || error == EDQUOT || error == EFBIG) {
    remedy = "; free space there, or set checkpoint.keep lower";
  } else if (error == EACCES || error == EPERM || error == EROFS) {
    remedy = "; the run needs a folder that it may write to";
  }
  throw CheckpointError(path.string() + ": " + what + ": " + std::system_category().message(error) +
                        remedy);
}

struct StateDeleter {
  void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
};

}  // namespace

FileDigest digest_file(const fs::path& path, std::span<const FilePart> known) {
  const InputFile file(path);
  const std::unique_ptr<XXH3_state_t, StateDeleter> state(XXH3_createState());
  XXH3_64bits_reset(state.get());
  std::vector<std::byte> block(std::min<uint64_t>(block_bytes, file.bytes()));
  uint64_t offset = 0;
  const auto read_until = [&](uint64_t end) {
    while (offset < end) {
      const auto part = std::span(block).first(std::min<uint64_t>(block.size(), end - offset));
      file.read_at(offset, part);
      XXH3_64bits_update(state.get(), part.data(), part.size());
      offset += part.size();
    }
  };
  for (const FilePart& part : known) {
    if (part.offset < offset || part.offset + part.bytes.size() > file.bytes()) {
      throw CheckpointError(path.string() + ": was not laid out as it is to be written");
    }
    read_until(part.offset);
    XXH3_64bits_update(state.get(), part.bytes.data(), part.bytes.size());
    offset += part.bytes.size();
  }
  read_until(file.bytes());
  return {file.bytes(), XXH3_64bits_digest(state.get())};
}

std::string checksum_text(uint64_t xxh3) {
  std::array<char, 17> text{};
  std::snprintf(text.data(), text.size(), "%016" PRIx64, xxh3);
  return text.data();
}

std::string text_checksum(std::string_view text) {
  return checksum_text(XXH3_64bits(text.data(), text.size()));
}

Descriptor::Descriptor(const fs::path& path, int flags, const char* what)
    : value_(open(path.c_str(), flags | O_CLOEXEC, file_mode)) {
  if (value_ < 0) {
    fail(path, what, errno);
  }
}

Descriptor::~Descriptor() {
  close(value_);
}

InputFile::InputFile(const fs::path& path)
    : path_(path), descriptor_(path, O_RDONLY, "cannot be opened") {
  struct stat status {};
  if (fstat(descriptor_.get(), &status) != 0) {
    fail(path_, "cannot be read", errno);
  }
  bytes_ = static_cast<uint64_t>(status.st_size);
}

void InputFile::read_at(uint64_t offset, std::span<std::byte> data) const {
  while (!data.empty()) {
    const ssize_t got =
        pread(descriptor_.get(), data.data(), data.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0) {
      fail(path_, "cannot be read", errno);
    }
    if (got == 0) {
      throw CheckpointError(path_.string() + ": ends before byte " +
                            std::to_string(offset + data.size()) +
                            "; the checkpoint is damaged: use an earlier one");
    }
    offset += static_cast<uint64_t>(got);
    data = data.subspan(static_cast<size_t>(got));
  }
}

OutputFile::OutputFile(const fs::path& path, bool existing)
    : path_(path),
      descriptor_(path, O_WRONLY | (existing ? 0 : O_CREAT | O_TRUNC),
                  existing ? "cannot be opened for writing" : "cannot be created") {}

void OutputFile::reserve(uint64_t bytes) {
  if (fallocate(descriptor_.get(), 0, 0, static_cast<off_t>(bytes)) != 0 && errno != EOPNOTSUPP) {
    fail(path_, "cannot be written", errno);
  }
}

void OutputFile::write_at(uint64_t offset, std::span<const std::byte> data) {
  while (!data.empty()) {
    const size_t wanted = std::min(block_bytes, data.size());
    const ssize_t written =
        pwrite(descriptor_.get(), data.data(), wanted, static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) {
      continue;
    }
    if (written < 0) {
      fail(path_, "cannot be written", errno);
    }
    // The disk starts now, and not when `sync` waits for it; what this answers does not matter.
    sync_file_range(descriptor_.get(), static_cast<off_t>(offset), written, SYNC_FILE_RANGE_WRITE);
    offset += static_cast<uint64_t>(written);
    data = data.subspan(static_cast<size_t>(written));
  }
}

void OutputFile::sync() {
  if (fsync(descriptor_.get()) != 0) {
    fail(path_, "cannot be written to the disk", errno);
  }
}

void write_file(const fs::path& path, std::span<const std::byte> data) {
  OutputFile file(path);
  file.write_at(0, data);
  file.sync();
}

void sync_directory(const fs::path& directory) {
  const Descriptor folder(directory, O_RDONLY | O_DIRECTORY, "cannot be opened");
  if (fsync(folder.get()) != 0 && errno != EINVAL) {  // EINVAL: a file system without it
    fail(directory, "cannot be written to the disk", errno);
  }
}

void publish_folder(const fs::path& partial, const fs::path& final) {
  const char* what = "the finished checkpoint cannot be given its name";
  if (rename(partial.c_str(), final.c_str()) != 0) {
    if (errno != EEXIST && errno != ENOTEMPTY) {
      fail(final, what, errno);
    }
    if (renameat2(AT_FDCWD, partial.c_str(), AT_FDCWD, final.c_str(), RENAME_EXCHANGE) == 0) {
      remove_folder(partial);  // which is the old one now
    } else if (errno == EINVAL || errno == ENOSYS) {
      // A file system that cannot exchange names: the old one goes first.
      remove_folder(final);
      if (rename(partial.c_str(), final.c_str()) != 0) {
        fail(final, what, errno);
      }
    } else {
      fail(final, what, errno);
    }
  }
  sync_directory(final.parent_path());
}

void remove_folder(const fs::path& folder) {
  std::error_code error;
  fs::remove_all(folder, error);
  if (error) {
    fail(folder, "cannot be removed", error.value());
  }
}

}  // namespace gsa
