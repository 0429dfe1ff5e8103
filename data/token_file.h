#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/mapped_file.h"
#include "data/sources.h"
#include "data/tokenizer.h"

namespace gsa::data {

/// How wide a token is in a file.
enum class TokenWidth : uint8_t { one = 1, two = 2, four = 4 };

/// One mapped file of tokens, of whatever format: what a stream (stream.h) is made of. Positions
/// count tokens from the start of the file.
class TokenFile {
 public:
  virtual ~TokenFile() = default;
  TokenFile(const TokenFile&) = delete;
  TokenFile& operator=(const TokenFile&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] int64_t tokens() const { return tokens_; }

  /// Says how the tokens will be read. Random: each copy() asks for all it needs at once, and
  /// nothing beyond it is read from the disk.
  void expect(Access access);

  /// Copies tokens [begin, begin + out.size()), which must lie in the file, as 32-bit ids and
  /// returns the largest of them as unsigned (so that a negative id is large too).
  uint32_t copy(int64_t begin, std::span<int32_t> out) const;

  /// The source of each of the tokens [begin, begin + out.size()); kUnknownSource where the format
  /// has none. Throws DataError for a source that is not in the table.
  virtual void sources(int64_t begin, std::span<SourceId> out) const = 0;

  /// Appends the places, relative to `begin`, of the documents' first tokens in
  /// [begin, begin + count).
  virtual void document_starts(int64_t begin, int64_t count,
                               std::vector<int32_t>& starts) const = 0;

 protected:
  /// `tokens` tokens of `width` bytes lie at `bytes`, which the derived class keeps mapped.
  TokenFile(std::filesystem::path path) : path_(std::move(path)) {}
  void set_tokens(const std::byte* bytes, TokenWidth width, int64_t tokens) {
    bytes_ = bytes;
    width_ = width;
    tokens_ = tokens;
  }

 private:
  std::filesystem::path path_;
  const std::byte* bytes_ = nullptr;
  TokenWidth width_ = TokenWidth::two;
  int64_t tokens_ = 0;
  Access access_ = Access::sequential;
};

}  // namespace gsa::data
