#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

#include "data/checksum.h"
#include "data/output_file.h"
#include "data/shard_format.h"
#include "data/sources.h"
#include "data/tokenizer.h"

namespace gsa::data {

/// Tokens as they lie in a shard: little-endian, two or four bytes each.
class PackedTokens {
 public:
  explicit PackedTokens(TokenWidth width) : width_(width) {}

  void append(std::span<const int32_t> ids);
  void clear() { bytes_.clear(); }
  [[nodiscard]] std::span<const std::byte> bytes() const { return bytes_; }
  [[nodiscard]] int64_t size() const {
    return static_cast<int64_t>(bytes_.size() / static_cast<size_t>(width_));
  }
  /// Room for so many tokens without growing.
  void reserve(size_t tokens) { bytes_.reserve(tokens * static_cast<size_t>(width_)); }

 private:
  TokenWidth width_;
  std::vector<std::byte> bytes_;
};

/// Writes one shard front to back. It has its name only once it is whole and on the disk; one that
/// is not finished is removed. Holds 9 bytes a document until then. Throws OutputError.
class ShardWriter {
 public:
  ShardWriter(const std::filesystem::path& path, const TokenizerInfo& tokenizer);

  /// Adds whole documents: their tokens back to back (packed with width_for the vocabulary), how
  /// many tokens each has, and each one's source.
  void append(const PackedTokens& tokens, std::span<const int64_t> document_tokens,
              std::span<const SourceId> sources);

  [[nodiscard]] int64_t tokens() const { return static_cast<int64_t>(header_.tokens); }
  [[nodiscard]] const TotalsBySource& totals() const { return totals_; }

  /// Ends the shard with `notes` (JSON) and gives the file its name.
  void finish(std::string_view notes);

 private:
  void append_payload(std::span<const std::byte> bytes);
  void pad();

  OutputFile file_;
  Checksum checksum_;
  ShardHeader header_;
  std::vector<uint64_t> offsets_{0};
  std::vector<SourceId> sources_;
  TotalsBySource totals_{};
};

}  // namespace gsa::data
