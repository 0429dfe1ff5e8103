#include "data/shard_writer.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace gsa::data {
namespace {

template <class T>
void pack(std::span<const int32_t> ids, std::byte* out) {
  for (const int32_t id : ids) {
    const auto narrow = static_cast<T>(id);
    std::memcpy(out, &narrow, sizeof(narrow));
    out += sizeof(narrow);
  }
}

}  // namespace

void PackedTokens::append(std::span<const int32_t> ids) {
  const size_t before = bytes_.size();
  bytes_.resize(before + ids.size() * static_cast<size_t>(width_));
  if (width_ == TokenWidth::two) {
    pack<uint16_t>(ids, bytes_.data() + before);
  } else {
    pack<uint32_t>(ids, bytes_.data() + before);
  }
}

ShardWriter::ShardWriter(const std::filesystem::path& path, const TokenizerInfo& tokenizer)
    : file_(path) {
  header_.token_width = static_cast<uint32_t>(width_for(tokenizer.vocabulary_size));
  header_.vocabulary_size = static_cast<uint32_t>(tokenizer.vocabulary_size);
  header_.end_of_sequence = tokenizer.end_of_sequence;
  header_.tokenizer_hash = tokenizer.hash;
  const size_t name_bytes = std::min(tokenizer.name.size(), kTokenizerNameBytes - 1);
  std::copy_n(tokenizer.name.begin(), name_bytes, header_.tokenizer_name.begin());
  // The real header needs the counts and the checksum: it is written last, over this one.
  file_.append(std::as_bytes(std::span(&header_, 1)));
}

void ShardWriter::append(const PackedTokens& tokens, std::span<const int64_t> document_tokens,
                         std::span<const SourceId> sources) {
  append_payload(tokens.bytes());
  for (size_t d = 0; d < document_tokens.size(); ++d) {
    offsets_.push_back(offsets_.back() + static_cast<uint64_t>(document_tokens[d]));
    sources_.push_back(sources[d]);
    ++totals_[sources[d]].documents;
    totals_[sources[d]].tokens += document_tokens[d];
  }
  header_.tokens = offsets_.back();
}

void ShardWriter::finish(std::string_view notes) {
  header_.documents = sources_.size();
  header_.notes_bytes = notes.size();
  pad();
  append_payload(std::as_bytes(std::span(offsets_)));
  append_payload(std::as_bytes(std::span(sources_)));
  pad();
  append_payload(std::as_bytes(std::span(notes)));
  header_.payload_checksum = checksum_.value();
  const auto bytes = std::as_bytes(std::span(&header_, 1));
  header_.header_checksum = checksum_of(bytes.first(offsetof(ShardHeader, header_checksum)));
  file_.write_at(0, bytes);
  file_.commit();
}

void ShardWriter::append_payload(std::span<const std::byte> bytes) {
  checksum_.update(bytes);
  file_.append(bytes);
}

void ShardWriter::pad() {
  constexpr std::array<std::byte, kShardAlignment> kZeros{};
  append_payload(std::span(kZeros).first(align_up(file_.size()) - file_.size()));
}

}  // namespace gsa::data
