#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "data/sources.h"
#include "data/tokenizer.h"

namespace gsa::data {

inline constexpr std::string_view kIndexName = "index.json";

/// One shard in a folder's index.
struct ShardEntry {
  std::string file;  ///< name in the folder
  int64_t bytes = 0;
  int64_t tokens = 0;
  int64_t documents = 0;
  uint64_t checksum = 0;  ///< of the payload, as in the shard's header
};

/// What index.json says of a folder of shards: a whole folder has one, an unfinished one has none.
struct FolderIndex {
  TokenizerInfo tokenizer;
  TotalsBySource totals{};
  std::vector<ShardEntry> shards;  ///< in the order of the stream

  [[nodiscard]] int64_t tokens() const;
  [[nodiscard]] int64_t documents() const;
};

/// Reads a folder's index and checks that each shard is there and as long as the index says. Throws
/// DataError for a folder, an index or a shard that is missing, and for a torn shard.
FolderIndex read_index(const std::filesystem::path& folder);

/// Builds the index from the headers of `files` in `folder`. Throws DataError when a shard is
/// damaged or was made with another tokenizer than the first.
FolderIndex make_index(const std::filesystem::path& folder, const std::vector<std::string>& files);

/// Writes `index` into `folder` all at once. Throws OutputError.
void write_index(const std::filesystem::path& folder, const FolderIndex& index);

}  // namespace gsa::data
