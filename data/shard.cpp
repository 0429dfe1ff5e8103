#include "data/shard.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "data/checksum.h"
#include "data/error.h"
#include "data/json_text.h"

namespace gsa::data {
namespace {

constexpr std::string_view kMakeAgain =
    "delete it and run the same `gsa tokenize` command again, which makes only what is missing";

[[noreturn]] void torn(const std::filesystem::path& path, const std::string& how) {
  throw DataError(fmt::format("{}: {}; {}", path.string(), how, kMakeAgain));
}

ShardHeader read_header(const std::filesystem::path& path, std::span<const std::byte> bytes) {
  ShardHeader header;
  if (bytes.size() < sizeof(header)) {
    torn(path, fmt::format("torn shard: it holds {} bytes, less than its header of {}",
                           bytes.size(), sizeof(header)));
  }
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (header.magic != kShardMagic) {
    throw DataError(fmt::format("{}: not a token shard (it does not start with {})", path.string(),
                                std::string_view(kShardMagic.data(), kShardMagic.size())));
  }
  if (header.version != kShardVersion) {
    throw DataError(fmt::format(
        "{}: shard format version {}, but this program reads version {}; tokenize the text again",
        path.string(), header.version, kShardVersion));
  }
  const auto summed = bytes.first(offsetof(ShardHeader, header_checksum));
  if (checksum_of(summed) != header.header_checksum) torn(path, "the header's checksum is wrong");
  return header;
}

/// The header's counts are believed only after this: the sizes that follow from them must make up
/// the file exactly.
ShardLayout check_layout(const std::filesystem::path& path, const ShardHeader& header,
                         uint64_t file_bytes) {
  const bool width_known = header.token_width == static_cast<uint32_t>(TokenWidth::two) ||
                           header.token_width == static_cast<uint32_t>(TokenWidth::four);
  // Counts beyond the file's bytes are caught before they are multiplied and could overflow.
  if (!width_known || header.tokens > file_bytes || header.documents > file_bytes ||
      header.notes_bytes > file_bytes) {
    torn(path, fmt::format("torn shard: {} tokens of {} bytes in {} documents do not fit in its {} "
                           "bytes",
                           header.tokens, header.token_width, header.documents, file_bytes));
  }
  const ShardLayout layout = layout_of(header);
  if (layout.end != file_bytes) {
    torn(path, fmt::format("torn shard: it holds {} bytes, but its header says {}", file_bytes,
                           layout.end));
  }
  return layout;
}

template <class T>
std::span<const T> section(std::span<const std::byte> bytes, uint64_t begin, uint64_t count) {
  return {reinterpret_cast<const T*>(bytes.data() + begin), static_cast<size_t>(count)};
}

}  // namespace

Shard::Shard(const std::filesystem::path& path)
    : TokenFile(path),
      file_(path),
      header_(read_header(path, file_.bytes())),
      layout_(check_layout(path, header_, file_.bytes().size())),
      offsets_(section<uint64_t>(file_.bytes(), layout_.offsets, header_.documents + 1)),
      sources_(section<SourceId>(file_.bytes(), layout_.sources, header_.documents)) {
  const auto& name = header_.tokenizer_name;
  tokenizer_ = {.name = std::string(name.begin(), std::find(name.begin(), name.end(), '\0')),
                .hash = header_.tokenizer_hash,
                .vocabulary_size = static_cast<int32_t>(header_.vocabulary_size),
                .end_of_sequence = header_.end_of_sequence};
  set_tokens(file_.bytes().data() + layout_.tokens, width(), static_cast<int64_t>(header_.tokens));
}

int64_t Shard::document_at(int64_t token) const {
  const auto next = std::upper_bound(
      offsets_.begin(), offsets_.end(), token,
      [](int64_t value, uint64_t offset) { return static_cast<uint64_t>(value) < offset; });
  // The bounds matter only for offsets that verify() would refuse.
  return std::clamp<int64_t>(next - offsets_.begin() - 1, 0, std::max<int64_t>(documents() - 1, 0));
}

SourceId Shard::source(int64_t document) const {
  if (document >= documents()) {
    torn(path(), fmt::format("it holds {} tokens, but only {} documents", tokens(), documents()));
  }
  const SourceId id = sources_[static_cast<size_t>(document)];
  if (id >= kSourceCount) {
    throw DataError(fmt::format("{}: document {} has source {}, but only {} are known",
                                path().string(), document, id, kSourceCount));
  }
  return id;
}

std::string_view Shard::notes() const {
  const auto text = section<char>(file_.bytes(), layout_.notes, header_.notes_bytes);
  return {text.data(), text.size()};
}

TotalsBySource Shard::totals_by_source() const {
  TotalsBySource totals{};
  for (int64_t d = 0; d < documents(); ++d) {
    auto& total = totals[source(d)];
    ++total.documents;
    total.tokens += document_begin(d + 1) - document_begin(d);
  }
  return totals;
}

void Shard::sources(int64_t begin, std::span<SourceId> out) const {
  const auto count = static_cast<int64_t>(out.size());
  int64_t document = document_at(begin);
  for (int64_t i = 0; i < count; ++document) {
    const bool last = document + 1 >= documents();
    const int64_t end = last ? count : std::min(count, document_begin(document + 1) - begin);
    if (end > i) {
      std::fill(out.begin() + i, out.begin() + end, source(document));
      i = end;
    }
  }
}

void Shard::document_starts(int64_t begin, int64_t count, std::vector<int32_t>& starts) const {
  int64_t document = document_at(begin);
  if (document_begin(document) < begin) ++document;
  for (; document < documents() && document_begin(document) < begin + count; ++document) {
    starts.push_back(static_cast<int32_t>(document_begin(document) - begin));
  }
}

void Shard::verify() const {
  const uint64_t found = checksum_of(file_.bytes().subspan(sizeof(ShardHeader)));
  if (found != header_.payload_checksum) {
    torn(path(), fmt::format("wrong checksum: the header says {}, the contents give {}",
                             hex(header_.payload_checksum), hex(found)));
  }
  if (!std::is_sorted(offsets_.begin(), offsets_.end()) || offsets_.front() != 0 ||
      offsets_.back() != header_.tokens) {
    torn(path(), "the documents' offsets are out of order");
  }
}

}  // namespace gsa::data
