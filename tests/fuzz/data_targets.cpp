// Targets of data/.
#include <algorithm>
#include <cstring>

#include "data/checksum.h"
#include "data/document_parser.h"
#include "data/error.h"
#include "data/index.h"
#include "data/sentencepiece_model.h"
#include "data/shard.h"
#include "data/shard_notes.h"
#include "data/stream.h"
#include "tests/fuzz/support.h"

namespace gsa::fuzz {
namespace {

constexpr int64_t most_tokens_read = 4096;

// Reads a stream as the loader does, in two parts.
void read_stream(const data::TokenStream& stream) {
  const int64_t count = std::min(stream.tokens(), most_tokens_read);
  std::vector<int32_t> ids(static_cast<size_t>(count));
  std::vector<data::SourceId> sources(ids.size());
  std::vector<int32_t> starts;
  for (const int64_t begin : {int64_t{0}, stream.tokens() - count}) {
    try {
      stream.copy(begin, 257, ids);
      require(std::all_of(ids.begin(), ids.end(), [](int32_t id) { return id >= 0 && id < 257; }),
              "ids lie in the vocabulary");
    } catch (const data::DataError&) {
    }
    try {
      stream.document_starts(begin, count, starts);
      require(std::is_sorted(starts.begin(), starts.end()), "documents come in order");
      require(starts.empty() || (starts.front() >= 0 && starts.back() < count),
              "documents start in the window");
    } catch (const data::DataError&) {
    }
    try {
      stream.sources(begin, sources);
    } catch (const data::DataError&) {
    }
  }
}

}  // namespace

void index(Bytes bytes) {
  scratch_file("index.json", bytes);
  scratch_file("shard-00000.gsa", bytes_of("x"));  // so that one entry's size can be right
  try {
    const data::FolderIndex read = data::read_index(scratch_folder());
    require(read.tokens() >= 0 && read.documents() >= 0, "counts are not negative");
    read_stream(data::TokenStream(scratch_folder()));
  } catch (const data::DataError&) {
  }
}

void shard(Bytes bytes) {
  std::vector<uint8_t> repaired(bytes.begin(), bytes.end());
  if (repaired.size() >= sizeof(data::ShardHeader)) {
    constexpr size_t summed = offsetof(data::ShardHeader, header_checksum);
    const uint64_t checksum = data::checksum_of(std::as_bytes(std::span(repaired)).first(summed));
    std::memcpy(repaired.data() + summed, &checksum, sizeof(checksum));
  }
  const auto path = scratch_file("fuzzed.gsa", repaired);
  try {
    const data::Shard read(path);
    // As the stream does, which believes neither offsets nor sources.
    std::vector<int32_t> ids(static_cast<size_t>(std::min(read.tokens(), most_tokens_read)));
    std::vector<data::SourceId> sources(ids.size());
    std::vector<int32_t> starts;
    read.copy(0, ids);
    read.copy(read.tokens() - static_cast<int64_t>(ids.size()), ids);
    read.document_starts(0, read.tokens(), starts);
    try {
      read.sources(0, sources);
      int64_t documents = 0;
      for (const auto& total : read.totals_by_source()) {
        documents += total.documents;
      }
      require(documents == read.documents(), "every document has a source");
    } catch (const data::DataError&) {
    }
    try {
      data::parse_notes(read.notes(), "here");
    } catch (const data::DataError&) {
    }
    read.verify();
  } catch (const data::DataError&) {
  }
}

void documents(Bytes bytes) {
  std::string padded(text_of(bytes));
  const size_t size = padded.size();
  padded.resize(size + data::kLinePadding);
  data::DocumentParser parser;
  const data::ParsedLine line = parser.parse(std::string_view(padded).substr(0, size));
  require(line.problem.has_value() || !line.text.empty(), "a document without problem has text");
}

void megatron(Bytes bytes) {
  scratch_file("fuzzed.idx", bytes);
  static const std::string tokens(64, '\1');
  scratch_file("fuzzed.bin", bytes_of(tokens));
  try {
    read_stream(data::TokenStream(scratch_folder() / "fuzzed.idx"));
  } catch (const data::DataError&) {
  }
}

void sentencepiece(Bytes bytes) {
  try {
    data::read_spec(text_of(bytes));
    // A field more does not make a sound model unsound.
    data::read_spec(data::without_dummy_prefix(text_of(bytes)));
  } catch (const data::DataError&) {
  }
}

}  // namespace gsa::fuzz
