#pragma once

#include <algorithm>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

#include "data/mapped_file.h"
#include "data/shard_format.h"
#include "data/token_file.h"

namespace gsa::data {

/// A shard of the project's own format (README.md has its layout), mapped read-only.
class Shard final : public TokenFile {
 public:
  /// Maps the file and checks its header against its size; the payload is not read. Throws
  /// DataError for a file that is missing, of another format or version, or torn.
  explicit Shard(const std::filesystem::path& path);

  [[nodiscard]] const TokenizerInfo& tokenizer() const { return tokenizer_; }
  [[nodiscard]] uint64_t payload_checksum() const { return header_.payload_checksum; }
  [[nodiscard]] uint64_t file_bytes() const { return layout_.end; }
  [[nodiscard]] TokenWidth width() const { return static_cast<TokenWidth>(header_.token_width); }

  [[nodiscard]] int64_t documents() const { return static_cast<int64_t>(header_.documents); }
  /// The first token of `document`; that of `documents()` is tokens().
  [[nodiscard]] int64_t document_begin(int64_t document) const {
    // Never past the tokens, whatever an unverified file says.
    return static_cast<int64_t>(std::min(offsets_[static_cast<size_t>(document)], header_.tokens));
  }
  /// The document that holds `token`.
  [[nodiscard]] int64_t document_at(int64_t token) const;
  /// Throws DataError if the file names a source that is not in the table.
  [[nodiscard]] SourceId source(int64_t document) const;
  /// What the tokenizer noted: JSON, see shard_notes.h.
  [[nodiscard]] std::string_view notes() const;
  [[nodiscard]] TotalsBySource totals_by_source() const;

  void sources(int64_t begin, std::span<SourceId> out) const override;
  void document_starts(int64_t begin, int64_t count, std::vector<int32_t>& starts) const override;

  /// Reads the whole file; throws DataError when its checksum is wrong or the offsets are not in
  /// order.
  void verify() const;

 private:
  MappedFile file_;
  ShardHeader header_;
  ShardLayout layout_;
  TokenizerInfo tokenizer_;
  std::span<const uint64_t> offsets_;
  std::span<const SourceId> sources_;
};

}  // namespace gsa::data
