#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>

namespace gsa::data {

/// What to do when another program is writing the same file.
enum class Contention : uint8_t {
  refuse,  ///< throw OutputError
  wait,    ///< write after it, over what it wrote
};

/// A file that appears under its name only when it is whole: it is written as NAME.tmp, flushed to
/// the disk and renamed by commit(). Without commit() the destructor removes it. The temporary file
/// is locked, so that two programs cannot write the same output at once. All functions throw
/// OutputError.
class OutputFile {
 public:
  explicit OutputFile(std::filesystem::path path, Contention contention = Contention::refuse);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  void append(std::span<const std::byte> bytes);
  void append(std::string_view text);
  /// Writes over earlier bytes, at `offset` from the start; what append() goes on at is unchanged.
  void write_at(uint64_t offset, std::span<const std::byte> bytes);
  /// Flushes to the disk and gives the file its name, replacing an older one.
  void commit();

  [[nodiscard]] uint64_t size() const { return size_; }
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  void open_locked(Contention contention);

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int file_ = -1;
  uint64_t size_ = 0;
};

/// Writes a whole small file through OutputFile, after any other program that is writing it.
void write_file(const std::filesystem::path& path, std::string_view text);

}  // namespace gsa::data
