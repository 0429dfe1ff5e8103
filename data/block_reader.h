#pragma once

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <semaphore>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/document_parser.h"
#include "data/input_file.h"
#include "data/problems.h"

namespace gsa::data {

/// How much text is held at once.
struct BlockLimits {
  size_t block = size_t{1} << 20;       ///< bytes of text handed to one thread at once
  size_t large = size_t{8} << 20;       ///< of blocks beyond this only one exists at a time
  size_t max_line = size_t{256} << 20;  ///< longer lines are left out
};

/// Lets one large block exist at a time, whichever threads read, so that memory is bounded whatever
/// the documents' sizes.
class LargeBlocks {
 public:
  /// Held by a large block until what was made of it is written; may be released by another thread.
  class Hold {
   public:
    Hold() = default;
    explicit Hold(LargeBlocks& owner) : owner_(&owner) { owner.free_.acquire(); }
    ~Hold() { release(); }
    Hold(Hold&& other) noexcept : owner_(std::exchange(other.owner_, nullptr)) {}
    Hold& operator=(Hold&& other) noexcept {
      std::swap(owner_, other.owner_);
      return *this;
    }
    [[nodiscard]] bool held() const { return owner_ != nullptr; }
    void release() {
      if (owner_ != nullptr) std::exchange(owner_, nullptr)->free_.release();
    }

   private:
    LargeBlocks* owner_ = nullptr;
  };

 private:
  std::binary_semaphore free_{1};
};

/// Bytes that can grow without being copied or cleared, with kLinePadding to spare at the end.
class TextBuffer {
 public:
  [[nodiscard]] std::span<char> span() { return {bytes_.get(), capacity_}; }
  [[nodiscard]] const char* data() const { return bytes_.get(); }
  [[nodiscard]] size_t capacity() const { return capacity_; }
  void grow(size_t capacity);
  void free();

 private:
  struct Free {
    void operator()(char* bytes) const { std::free(bytes); }
  };
  std::unique_ptr<char, Free> bytes_;
  size_t capacity_ = 0;
};

/// Whole lines of one input file.
struct Block {
  TextBuffer buffer;
  size_t size = 0;         ///< bytes of lines in the buffer
  size_t file = 0;         ///< index of the file in the group
  int64_t first_line = 1;  ///< number of the first line in its file
  ProblemList problems;    ///< found while reading: torn and empty files, lines too long
  LargeBlocks::Hold large;

  [[nodiscard]] std::string_view text() const { return {buffer.data(), size}; }
};

/// One of the files to read.
struct InputSpec {
  std::filesystem::path path;
  std::string name;  ///< in reports: relative to the input folder
  int64_t bytes = 0;
};

/// Cuts a group of input files into blocks of whole lines, in order. For one thread at a time.
class BlockReader {
 public:
  /// `files` and `large` outlive the reader.
  BlockReader(std::span<const InputSpec> files, LargeBlocks& large, const BlockLimits& limits = {})
      : files_(files), large_(large), limits_(limits) {}

  /// Fills `block` with the next lines (none, if all it has to tell is a problem); false at the end
  /// of the last file. Throws DataError when a file cannot be opened or read.
  bool next(Block& block);

  /// How much has been read of all files, in bytes on the disk.
  [[nodiscard]] int64_t bytes_read() const;

 private:
  bool open_next(Block& block);
  void fill(Block& block);
  size_t read_some(Block& block, size_t used);
  void make_room(Block& block, size_t used);
  void keep_lines(Block& block, size_t used, size_t lines_end);
  void skip_long_line(Block& block);
  void close_if_ended(Block& block);

  std::span<const InputSpec> files_;
  LargeBlocks& large_;
  BlockLimits limits_;
  size_t next_file_ = 0;
  std::unique_ptr<InputFile> input_;
  bool at_end_ = false;              // of the open file
  std::optional<std::string> torn_;  // how it ended, if too early
  int64_t line_ = 1;                 // number of the next line of the open file
  std::vector<char> rest_;           // the start of a line whose end has not been read
  int64_t finished_bytes_ = 0;
};

}  // namespace gsa::data
