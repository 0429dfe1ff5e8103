#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "data/token_file.h"

namespace gsa::data {

static_assert(std::endian::native == std::endian::little, "shards are mapped as little-endian");

inline constexpr std::array<char, 8> kShardMagic = {'G', 'S', 'A', 'S', 'H', 'A', 'R', 'D'};
inline constexpr uint32_t kShardVersion = 1;
inline constexpr uint64_t kShardAlignment = 8;  ///< sections after the tokens start at multiples
inline constexpr size_t kTokenizerNameBytes = 64;

/// The first 256 bytes of a shard, as they lie in the file. README.md has the table of the format.
struct ShardHeader {
  std::array<char, 8> magic = kShardMagic;
  uint32_t version = kShardVersion;
  uint32_t token_width = 0;  ///< bytes a token: 2 or 4
  uint64_t tokens = 0;
  uint64_t documents = 0;
  uint32_t vocabulary_size = 0;
  int32_t end_of_sequence = -1;
  uint64_t tokenizer_hash = 0;
  uint64_t payload_checksum = 0;  ///< XXH3 of everything after the header
  uint64_t notes_bytes = 0;
  std::array<char, kTokenizerNameBytes> tokenizer_name{};  ///< zero-terminated
  std::array<std::byte, 120> reserved{};
  uint64_t header_checksum = 0;  ///< XXH3 of the header before this field
};
static_assert(sizeof(ShardHeader) == 256 && offsetof(ShardHeader, header_checksum) == 248);

/// Where the sections of a shard lie, in bytes from the start of the file.
struct ShardLayout {
  uint64_t tokens = sizeof(ShardHeader);
  uint64_t offsets = 0;  ///< documents + 1 times u64: each document's first token, then all tokens
  uint64_t sources = 0;  ///< documents times u8
  uint64_t notes = 0;    ///< JSON text (tokenize.h)
  uint64_t end = 0;      ///< the size of the file
};

inline constexpr uint64_t align_up(uint64_t size) {
  return (size + kShardAlignment - 1) / kShardAlignment * kShardAlignment;
}

inline ShardLayout layout_of(const ShardHeader& header) {
  ShardLayout layout;
  layout.offsets = align_up(layout.tokens + header.tokens * header.token_width);
  layout.sources = layout.offsets + (header.documents + 1) * sizeof(uint64_t);
  layout.notes = align_up(layout.sources + header.documents);
  layout.end = layout.notes + header.notes_bytes;
  return layout;
}

/// The narrowest width that holds every id of the vocabulary.
inline TokenWidth width_for(int32_t vocabulary_size) {
  constexpr int32_t kIdsOfTwoBytes = 1 << 16;
  return vocabulary_size <= kIdsOfTwoBytes ? TokenWidth::two : TokenWidth::four;
}

}  // namespace gsa::data
