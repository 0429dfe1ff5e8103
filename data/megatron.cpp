#include "data/megatron.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <numeric>

#include "data/error.h"
#include "data/index.h"
#include "data/output_file.h"
#include "data/shard.h"
#include "data/shard_writer.h"

namespace gsa::data {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kMagic{"MMIDIDX\0\0", 9};
constexpr uint64_t kVersion = 1;

// Codes of the token type in the index.
constexpr uint8_t kUint8 = 1;
constexpr uint8_t kInt32 = 4;
constexpr uint8_t kUint16 = 8;

// The index: magic, version (u64), type (u8), sequences (u64), document marks (u64), then the
// sequences' lengths (i32), their first bytes in the .bin (i64), and the document marks (i64): the
// first sequence of each document, then the number of sequences.
constexpr size_t kVersionAt = kMagic.size();
constexpr size_t kTypeAt = kVersionAt + sizeof(uint64_t);
constexpr size_t kSequencesAt = kTypeAt + sizeof(uint8_t);
constexpr size_t kMarksAt = kSequencesAt + sizeof(uint64_t);
constexpr size_t kHeaderBytes = kMarksAt + sizeof(uint64_t);

fs::path with_ending(const fs::path& prefix, const char* ending) {
  return prefix.string() + ending;
}

fs::path prefix_of(const fs::path& path) {
  const auto ending = path.extension();
  return ending == ".idx" || ending == ".bin" ? fs::path(path).replace_extension() : path;
}

TokenWidth width_of(uint8_t type, const fs::path& index) {
  switch (type) {
    case kUint8:
      return TokenWidth::one;
    case kUint16:
      return TokenWidth::two;
    case kInt32:
      return TokenWidth::four;
    default:
      break;
  }
  throw DataError(fmt::format(
      "{}: tokens of type code {}; only uint8 ({}), int32 ({}) and uint16 ({}) hold token ids here",
      index.string(), type, kUint8, kInt32, kUint16));
}

class MegatronFile final : public TokenFile {
 public:
  explicit MegatronFile(const fs::path& prefix)
      : TokenFile(with_ending(prefix, ".bin")), index_(with_ending(prefix, ".idx")), file_(path()) {
    const auto index = with_ending(prefix, ".idx");
    const auto size = index_.bytes().size();
    if (size < kHeaderBytes) torn(index, "shorter than its header");
    if (at<uint64_t>(kVersionAt) != kVersion) {
      throw DataError(fmt::format("{}: version {} of the format, but only {} is known",
                                  index.string(), at<uint64_t>(kVersionAt), kVersion));
    }
    width_ = width_of(at<uint8_t>(kTypeAt), index);
    const auto sequences = at<uint64_t>(kSequencesAt);
    const auto marks = at<uint64_t>(kMarksAt);
    if (sequences > size || marks > size || marks == 0) torn(index, "its counts do not fit");
    const uint64_t lengths_bytes = sequences * sizeof(int32_t);
    pointers_at_ = kHeaderBytes + lengths_bytes;
    marks_at_ = pointers_at_ + sequences * sizeof(int64_t);
    if (marks_at_ + marks * sizeof(int64_t) > size) torn(index, "shorter than its counts say");
    sequences_ = static_cast<int64_t>(sequences);
    documents_ = static_cast<int64_t>(marks) - 1;
    check_tokens(kHeaderBytes + lengths_bytes - sizeof(int32_t), index);
  }

  void sources(int64_t, std::span<SourceId> out) const override {
    std::fill(out.begin(), out.end(), kUnknownSource);
  }

  void document_starts(int64_t begin, int64_t count, std::vector<int32_t>& starts) const override {
    // The first document that begins at `begin` or later, by bisection.
    int64_t low = 0;
    int64_t high = documents_;
    while (low < high) {
      const int64_t middle = std::midpoint(low, high);
      if (document_begin(middle) < begin) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    for (; low < documents_ && document_begin(low) < begin + count; ++low) {
      starts.push_back(static_cast<int32_t>(document_begin(low) - begin));
    }
  }

 private:
  [[noreturn]] static void torn(const fs::path& file, const std::string& how) {
    throw DataError(
        fmt::format("{}: torn Megatron file: {}; write the pair again", file.string(), how));
  }

  /// The tokens are read as one run, so the last sequence must end where the .bin ends.
  void check_tokens(size_t last_length_at, const fs::path& index) {
    const auto bytes = static_cast<int64_t>(file_.bytes().size());
    int64_t said = 0;
    if (sequences_ > 0) {
      const int64_t last = sequence_byte(sequences_ - 1);
      if (last < 0 || last > bytes) torn(index, "its last sequence lies outside of the .bin");
      said = last + int64_t{at<int32_t>(last_length_at)} * static_cast<int>(width_);
    }
    if (said != bytes) {
      torn(path(), fmt::format("it holds {} bytes, but {} says {}", bytes, index.string(), said));
    }
    set_tokens(file_.bytes().data(), width_, bytes / static_cast<int>(width_));
  }

  /// The fields lie at odd addresses.
  template <class T>
  [[nodiscard]] T at(size_t byte) const {
    T value;
    std::memcpy(&value, index_.bytes().data() + byte, sizeof(T));
    return value;
  }

  [[nodiscard]] int64_t sequence_byte(int64_t sequence) const {
    return at<int64_t>(pointers_at_ + static_cast<size_t>(sequence) * sizeof(int64_t));
  }

  [[nodiscard]] int64_t document_begin(int64_t document) const {
    const auto sequence = at<int64_t>(marks_at_ + static_cast<size_t>(document) * sizeof(int64_t));
    if (sequence < 0 || sequence > sequences_) torn(path(), "its index names no sequence of it");
    return sequence == sequences_ ? tokens() : sequence_byte(sequence) / static_cast<int>(width_);
  }

  MappedFile index_;
  MappedFile file_;
  TokenWidth width_ = TokenWidth::two;
  size_t pointers_at_ = 0;
  size_t marks_at_ = 0;
  int64_t sequences_ = 0;
  int64_t documents_ = 0;
};

template <class T>
void append_value(OutputFile& file, const T& value) {
  file.append(std::as_bytes(std::span(&value, 1)));
}

void write_tokens(const fs::path& folder, const FolderIndex& index, OutputFile& file) {
  constexpr int64_t kAtOnce = 1 << 16;
  std::vector<int32_t> ids;
  PackedTokens packed(width_for(index.tokenizer.vocabulary_size));
  for (const auto& entry : index.shards) {
    const Shard shard(folder / entry.file);
    for (int64_t begin = 0; begin < shard.tokens(); begin += kAtOnce) {
      ids.resize(static_cast<size_t>(std::min(kAtOnce, shard.tokens() - begin)));
      shard.copy(begin, ids);
      packed.clear();
      packed.append(ids);
      file.append(packed.bytes());
    }
  }
}

/// Writes one value for each document of all shards, given its first token in the stream and its
/// length: the index's columns follow each other, and one at a time needs no memory.
template <class T, class Value>
void write_column(const fs::path& folder, const FolderIndex& index, OutputFile& file,
                  const Value& value) {
  int64_t stream_begin = 0;
  std::vector<T> column;
  for (const auto& entry : index.shards) {
    const Shard shard(folder / entry.file);
    column.clear();
    for (int64_t d = 0; d < shard.documents(); ++d) {
      const int64_t begin = shard.document_begin(d);
      column.push_back(
          static_cast<T>(value(stream_begin + begin, shard.document_begin(d + 1) - begin)));
    }
    file.append(std::as_bytes(std::span(column)));
    stream_begin += shard.tokens();
  }
}

}  // namespace

bool is_megatron(const fs::path& path) {
  std::ifstream file(with_ending(prefix_of(path), ".idx"), std::ios::binary);
  std::array<char, kMagic.size()> magic{};
  file.read(magic.data(), magic.size());
  return file && std::string_view(magic.data(), magic.size()) == kMagic;
}

std::unique_ptr<TokenFile> open_megatron(const fs::path& path) {
  return std::make_unique<MegatronFile>(prefix_of(path));
}

void write_megatron(const fs::path& folder, const fs::path& prefix) {
  const FolderIndex index = read_index(folder);
  const TokenWidth width = width_for(index.tokenizer.vocabulary_size);
  OutputFile tokens(with_ending(prefix, ".bin"));
  OutputFile file(with_ending(prefix, ".idx"));
  write_tokens(folder, index, tokens);

  const auto documents = static_cast<uint64_t>(index.documents());
  file.append(kMagic);
  append_value(file, kVersion);
  append_value(file, width == TokenWidth::two ? kUint16 : kInt32);
  append_value(file, documents);      // sequences: one a document
  append_value(file, documents + 1);  // document marks
  write_column<int32_t>(folder, index, file, [](int64_t, int64_t length) { return length; });
  write_column<int64_t>(folder, index, file, [width](int64_t begin, int64_t) {
    return begin * static_cast<int64_t>(width);
  });
  int64_t mark = 0;
  write_column<int64_t>(folder, index, file, [&mark](int64_t, int64_t) { return mark++; });
  append_value(file, mark);
  tokens.commit();
  file.commit();
}

}  // namespace gsa::data
