#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "data/sources.h"
#include "data/token_file.h"
#include "data/tokenizer.h"

namespace gsa::data {

/// The tokens of a split as one long stream: its shards back to back. Shards are mapped when they
/// are first touched, so opening thousands costs next to nothing. May be read by several threads.
class TokenStream {
 public:
  /// `path` is a folder of shards (with index.json), or one of the formats that others write, read
  /// in place: a Megatron-LM .idx or .bin file with its partner beside it (megatron.h), a .bin file
  /// of llm.c, or a folder of such .bin files (llmc.h). Throws DataError when it is none of them,
  /// or something is missing or torn. `access` is how copy() will go through it.
  explicit TokenStream(const std::filesystem::path& path, Access access = Access::sequential);
  ~TokenStream();

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] int64_t tokens() const { return tokens_; }
  /// Who made the tokens; for formats that do not say, the name is empty and the size 0.
  [[nodiscard]] const TokenizerInfo& tokenizer() const { return tokenizer_; }
  /// Whether the stream knows each document's source.
  [[nodiscard]] bool has_sources() const { return !tokenizer_.name.empty(); }

  /// Copies tokens [begin, begin + out.size()). Throws DataError, naming shard, position and id,
  /// when one is not below `vocabulary_size`.
  void copy(int64_t begin, int32_t vocabulary_size, std::span<int32_t> out) const;

  /// The source of each of these tokens.
  void sources(int64_t begin, std::span<SourceId> out) const;

  /// Puts into `starts` the places in [begin, begin + count), relative to begin, where a document
  /// begins.
  void document_starts(int64_t begin, int64_t count, std::vector<int32_t>& starts) const;

 private:
  struct Slot;

  void add(const std::filesystem::path& path, int64_t tokens, std::unique_ptr<TokenFile> file);
  void open_folder();
  template <class Visit>
  void for_each_part(int64_t begin, int64_t count, const Visit& visit) const;
  const TokenFile& file(Slot& slot) const;

  std::filesystem::path path_;
  Access access_;
  TokenizerInfo tokenizer_;
  int64_t tokens_ = 0;
  std::vector<std::unique_ptr<Slot>> slots_;
  mutable std::mutex mutex_;  // for mapping
};

}  // namespace gsa::data
