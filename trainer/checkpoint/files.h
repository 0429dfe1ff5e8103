// Files as a checkpoint needs them: written to the disk for certain, compared by checksum. For this
// folder only. Every failure is a CheckpointError with the path and the system's reason.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

namespace gsa {

// A file's size and the XXH3 (64 bits) of its bytes.
struct FileDigest {
  uint64_t bytes = 0;
  uint64_t xxh3 = 0;
  bool operator==(const FileDigest&) const = default;
};

// Bytes that lie in a file from `offset` on, or are about to.
struct FilePart {
  uint64_t offset = 0;
  std::span<const std::byte> bytes;
};

// The digest of a file. What is in `known` (in order of offset, not empty) is taken from there: a
// file is digested so while it is written. A part beyond the file's end is an error.
FileDigest digest_file(const std::filesystem::path& path, std::span<const FilePart> known = {});

// XXH3 of a text, as 16 hexadecimal digits.
std::string text_checksum(std::string_view text);
std::string checksum_text(uint64_t xxh3);

// An open file's descriptor. `what` is for the message if it cannot be opened.
class Descriptor {
 public:
  Descriptor(const std::filesystem::path& path, int flags, const char* what);
  ~Descriptor();
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return value_; }

 private:
  int value_;
};

// A file being read.
class InputFile {
 public:
  explicit InputFile(const std::filesystem::path& path);

  // The file's size.
  uint64_t bytes() const { return bytes_; }
  // Fills `data` with what lies at `offset`: a file that ends before is an error.
  void read_at(uint64_t offset, std::span<std::byte> data) const;

 private:
  std::filesystem::path path_;
  Descriptor descriptor_;
  uint64_t bytes_;
};

// A file being written.
class OutputFile {
 public:
  // A new and empty file, or with `existing` one that is there.
  explicit OutputFile(const std::filesystem::path& path, bool existing = false);

  // Takes `bytes` of disk for the file, as far as the file system can: a full disk is found here.
  void reserve(uint64_t bytes);
  // Writes all of it, and has the disk begin with it.
  void write_at(uint64_t offset, std::span<const std::byte> data);
  // Waits until everything lies on the disk.
  void sync();

 private:
  std::filesystem::path path_;
  Descriptor descriptor_;
};

// A new file with this content, on the disk when the function returns.
void write_file(const std::filesystem::path& path, std::span<const std::byte> data);

// Has the directory's entries written to the disk.
void sync_directory(const std::filesystem::path& directory);

// Gives `partial` the name `final` in one step. A folder that has the name is replaced and removed.
void publish_folder(const std::filesystem::path& partial, const std::filesystem::path& final);

// Removes a folder and all in it; no complaint if it is not there.
void remove_folder(const std::filesystem::path& folder);

}  // namespace gsa
