#include "tests/data/sparse_shards.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/checksum.h"
#include "data/index.h"
#include "data/shard_format.h"

namespace gsa::data::test {
namespace {

constexpr std::string_view kTokenizerName = "sparse";

ShardHeader header_of(const SparseShards& size) {
  ShardHeader header;
  header.token_width = static_cast<uint32_t>(width_for(SparseShards::kVocabulary));
  header.tokens = static_cast<uint64_t>(size.tokens_per_shard);
  header.documents =
      static_cast<uint64_t>((size.tokens_per_shard - 1) / SparseShards::kDocumentTokens + 1);
  header.vocabulary_size = SparseShards::kVocabulary;
  header.end_of_sequence = 0;
  std::copy(kTokenizerName.begin(), kTokenizerName.end(), header.tokenizer_name.begin());
  const auto bytes = std::as_bytes(std::span(&header, 1));
  header.header_checksum = checksum_of(bytes.first(offsetof(ShardHeader, header_checksum)));
  return header;
}

std::vector<uint64_t> offsets_of(const ShardHeader& header) {
  std::vector<uint64_t> offsets;
  offsets.reserve(header.documents + 1);
  for (uint64_t d = 0; d < header.documents; ++d) {
    offsets.push_back(d * SparseShards::kDocumentTokens);
  }
  offsets.push_back(header.tokens);
  return offsets;
}

void write_shard(const std::filesystem::path& path, const ShardHeader& header,
                 std::span<const uint64_t> offsets, uint16_t first_token) {
  const ShardLayout layout = layout_of(header);
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(&header), sizeof(header));
  file.write(reinterpret_cast<const char*>(&first_token), sizeof(first_token));
  file.seekp(static_cast<std::streamoff>(layout.offsets));
  file.write(reinterpret_cast<const char*>(offsets.data()),
             static_cast<std::streamsize>(offsets.size_bytes()));
  file.close();
  std::filesystem::resize_file(path, layout.end);
}

}  // namespace

void make_sparse_shards(const std::filesystem::path& folder, const SparseShards& size) {
  std::filesystem::create_directories(folder);
  const ShardHeader header = header_of(size);
  const auto offsets = offsets_of(header);
  FolderIndex index;
  index.tokenizer = {.name = std::string(kTokenizerName),
                     .hash = 0,
                     .vocabulary_size = SparseShards::kVocabulary,
                     .end_of_sequence = 0};
  for (int64_t shard = 0; shard < size.shards; ++shard) {
    const std::string name = fmt::format("shard-{:06}.gsa", shard);
    write_shard(folder / name, header, offsets, static_cast<uint16_t>(shard + 1));
    index.shards.push_back({.file = name,
                            .bytes = static_cast<int64_t>(layout_of(header).end),
                            .tokens = size.tokens_per_shard,
                            .documents = static_cast<int64_t>(header.documents)});
  }
  write_index(folder, index);
}

int64_t own_memory() {
  std::ifstream status("/proc/self/status");
  constexpr int64_t kKibibyte = 1024;
  for (std::string word; status >> word;) {
    int64_t kibibytes = 0;
    if (word == "RssAnon:" && status >> kibibytes) return kibibytes * kKibibyte;
  }
  return 0;
}

}  // namespace gsa::data::test
