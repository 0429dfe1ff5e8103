#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

namespace gsa::data {

/// A whole file mapped read-only into memory for as long as the object lives.
class MappedFile {
 public:
  /// Throws DataError when the file cannot be opened or mapped.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  /// Starts at a page boundary; empty for an empty file.
  [[nodiscard]] std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
};

/// How a mapped range will be read. It changes speed only.
enum class Access : uint8_t {
  sequential,  ///< front to back: the kernel reads ahead, as it does by itself
  random,      ///< here and there: what is read ahead (megabytes on some machines) would be wasted
};

/// Tells the kernel how `bytes`, part of a mapped file, will be read.
void advise(std::span<const std::byte> bytes, Access access);

/// Starts to read `bytes`, part of a mapped file, from the disk in one go, unless they are in
/// memory.
void start_reading(std::span<const std::byte> bytes);

}  // namespace gsa::data
