#pragma once

#include <cstdint>
#include <filesystem>

namespace gsa::data::test {

/// A folder of shards at full size that take next to no room: all tokens are 0 and were never
/// written, but for the first of each shard, which is the shard's number + 1.
struct SparseShards {
  static constexpr int32_t kVocabulary = 1 << 16;
  static constexpr int64_t kDocumentTokens = 1'000'000;  ///< of every document but a shard's last

  int64_t shards = 0;
  int64_t tokens_per_shard = 0;

  [[nodiscard]] int64_t tokens() const { return shards * tokens_per_shard; }
};

/// Makes the folder, whose file system must know sparse files. Checksums of the payload are wrong.
void make_sparse_shards(const std::filesystem::path& folder, const SparseShards& size);

/// Bytes of this process's own memory that are in use, mapped files left out.
int64_t own_memory();

}  // namespace gsa::data::test
