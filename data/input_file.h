#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <stdexcept>

namespace gsa::data {

/// A compressed file that ends too early or is damaged; what came before is good.
class TornInput : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The decompressed bytes of one input file, front to back, in bounded memory.
class InputFile {
 public:
  virtual ~InputFile() = default;
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  /// Fills the start of `out` and returns how much; 0 at the end. Throws TornInput where the
  /// compressed data are damaged and DataError when the disk cannot be read.
  virtual size_t read(std::span<char> out) = 0;

  /// How much of the file, as it lies on the disk, has been read.
  [[nodiscard]] virtual int64_t bytes_read() const = 0;

 protected:
  InputFile() = default;
};

/// Whether the name ends in .jsonl, .jsonl.gz or .jsonl.zst.
bool is_input_name(const std::filesystem::path& path);

/// Opens a file by the end of its name: .gz through zlib (members back to back are one text), .zst
/// through zstd (frames likewise), anything else as it is. Throws DataError when it cannot be
/// opened.
std::unique_ptr<InputFile> open_input(const std::filesystem::path& path);

}  // namespace gsa::data
