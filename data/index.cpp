#include "data/index.h"

#include <fmt/format.h>

#include <fstream>
#include <iterator>
#include <limits>
#include <system_error>

#include "data/error.h"
#include "data/json_fields.h"
#include "data/json_text.h"
#include "data/output_file.h"
#include "data/shard.h"

namespace gsa::data {
namespace {

constexpr std::string_view kFormat = "gsa-shards";
constexpr int64_t kIndexVersion = 1;
// Of all shards together, so that sums stay inside int64_t.
constexpr int64_t kMostTokens = int64_t{1} << 50;

std::string read_text(const std::filesystem::path& folder) {
  const auto path = folder / kIndexName;
  if (!std::filesystem::is_directory(folder)) {
    throw DataError(fmt::format(
        "{}: there is no such folder of shards; make one with `gsa tokenize`, or check the path",
        folder.string()));
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    throw DataError(
        fmt::format("{}: missing; the folder was not finished: run its `gsa tokenize` command "
                    "again, which goes on "
                    "where it stopped",
                    path.string()));
  }
  return {std::istreambuf_iterator<char>(file), {}};
}

/// A count that cannot be more than `most`: what is not is not believed.
int64_t count_field(simdjson::dom::element json, std::string_view name, int64_t most) {
  const int64_t value = int_field(json, name);
  if (value < 0 || value > most) {
    throw DataError(
        fmt::format("{}: \"{}\" must be from 0 to {}, is {}; the index is damaged: "
                    "delete it and run the folder's `gsa tokenize` command again",
                    kIndexName, name, most, value));
  }
  return value;
}

/// Names a file in the folder and nothing outside of it.
std::string plain_name(std::string name) {
  if (name.empty() || name == "." || name == ".." ||
      name.find_first_of(std::string_view("/\0", 2)) != std::string::npos) {
    throw DataError(fmt::format("{}: '{}' is not the name of a shard", kIndexName, name));
  }
  return name;
}

TokenizerInfo parse_tokenizer(simdjson::dom::element json) {
  constexpr int64_t kMostIds = std::numeric_limits<int32_t>::max();
  const int64_t end = int_field(json, "end_of_sequence");
  return {
      .name = text_field(json, "name"),
      .hash = parse_hex(text_field(json, "hash")),
      .vocabulary_size = static_cast<int32_t>(count_field(json, "vocabulary_size", kMostIds)),
      .end_of_sequence =
          end == -1 ? -1 : static_cast<int32_t>(count_field(json, "end_of_sequence", kMostIds))};
}

FolderIndex parse_index(simdjson::dom::element root, const std::filesystem::path& path) {
  if (text_field(root, "format") != kFormat || int_field(root, "version") != kIndexVersion) {
    throw DataError(fmt::format(
        "{}: format '{}' version {}, but this program reads '{}' version {}", path.string(),
        text_field(root, "format"), int_field(root, "version"), kFormat, kIndexVersion));
  }
  FolderIndex index;
  index.tokenizer = parse_tokenizer(field(root, "tokenizer"));
  for (const auto total : array_field(root, "sources")) {
    auto& known = index.totals[source_of_name(text_field(total, "name"))];
    known.documents += count_field(total, "documents", kMostTokens);
    known.tokens += count_field(total, "tokens", kMostTokens);
  }
  for (const auto shard : array_field(root, "shards")) {
    // A token takes bytes, and so does a document: no count is larger than the file.
    const int64_t bytes = count_field(shard, "bytes", kMostTokens);
    index.shards.push_back({.file = plain_name(text_field(shard, "file")),
                            .bytes = bytes,
                            .tokens = count_field(shard, "tokens", bytes),
                            .documents = count_field(shard, "documents", bytes),
                            .checksum = parse_hex(text_field(shard, "checksum"))});
  }
  return index;
}

void check_shards(const std::filesystem::path& folder, const FolderIndex& index) {
  for (const auto& shard : index.shards) {
    const auto path = folder / shard.file;
    std::error_code error;
    const auto bytes = std::filesystem::file_size(path, error);
    if (error) {
      throw DataError(fmt::format(
          "{}: shard missing ({}), though {} lists it; copy it back, or run the folder's `gsa "
          "tokenize` command again",
          path.string(), error.message(), kIndexName));
    }
    if (bytes != static_cast<uint64_t>(shard.bytes)) {
      throw DataError(fmt::format(
          "{}: torn shard: it holds {} bytes, but {} says {}; delete it and run the folder's `gsa "
          "tokenize` command again, or copy it anew",
          path.string(), bytes, kIndexName, shard.bytes));
    }
  }
}

}  // namespace

int64_t FolderIndex::tokens() const {
  int64_t sum = 0;
  for (const auto& shard : shards) sum += shard.tokens;
  return sum;
}

int64_t FolderIndex::documents() const {
  int64_t sum = 0;
  for (const auto& shard : shards) sum += shard.documents;
  return sum;
}

FolderIndex read_index(const std::filesystem::path& folder) {
  const std::string text = read_text(folder);
  const auto path = folder / kIndexName;
  FolderIndex index;
  try {
    simdjson::dom::parser parser;
    index = parse_index(simdjson::dom::element(parser.parse(text)), path);
  } catch (const simdjson::simdjson_error& error) {
    throw DataError(
        fmt::format("{}: not an index of shards ({}); delete it and run the folder's `gsa "
                    "tokenize` command again",
                    path.string(), error.what()));
  }
  check_shards(folder, index);
  return index;
}

FolderIndex make_index(const std::filesystem::path& folder, const std::vector<std::string>& files) {
  FolderIndex index;
  for (const auto& file : files) {
    const Shard shard(folder / file);
    if (index.shards.empty()) index.tokenizer = shard.tokenizer();
    if (shard.tokenizer() != index.tokenizer) {
      throw DataError(
          fmt::format("{}: made with tokenizer {} (hash {}), but {} beside it with {} (hash {}); "
                      "one folder holds "
                      "shards of one tokenizer",
                      shard.path().string(), shard.tokenizer().name, hex(shard.tokenizer().hash),
                      index.shards.front().file, index.tokenizer.name, hex(index.tokenizer.hash)));
    }
    index.shards.push_back({.file = file,
                            .bytes = static_cast<int64_t>(shard.file_bytes()),
                            .tokens = shard.tokens(),
                            .documents = shard.documents(),
                            .checksum = shard.payload_checksum()});
    const auto totals = shard.totals_by_source();
    for (size_t s = 0; s < kSourceCount; ++s) {
      index.totals[s].documents += totals[s].documents;
      index.totals[s].tokens += totals[s].tokens;
    }
  }
  return index;
}

void write_index(const std::filesystem::path& folder, const FolderIndex& index) {
  std::string json = fmt::format(
      "{{\n  \"format\": \"{}\",\n  \"version\": {},\n  \"tokenizer\": {{\"name\": {}, \"hash\": "
      "\"{}\", \"vocabulary_size\": {}, \"end_of_sequence\": {}}},\n  \"tokens\": {},\n  "
      "\"documents\": {},\n  \"sources\": [",
      kFormat, kIndexVersion, json_quote(index.tokenizer.name), hex(index.tokenizer.hash),
      index.tokenizer.vocabulary_size, index.tokenizer.end_of_sequence, index.tokens(),
      index.documents());
  const char* separator = "\n";
  for (size_t s = 0; s < kSourceCount; ++s) {
    const auto& total = index.totals[s];
    if (total.documents == 0) continue;
    json += fmt::format("{}    {{\"name\": \"{}\", \"documents\": {}, \"tokens\": {}}}", separator,
                        kSourceNames[s], total.documents, total.tokens);
    separator = ",\n";
  }
  json += "\n  ],\n  \"shards\": [";
  separator = "\n";
  for (const auto& shard : index.shards) {
    json += fmt::format(
        "{}    {{\"file\": {}, \"bytes\": {}, \"tokens\": {}, \"documents\": {}, \"checksum\": "
        "\"{}\"}}",
        separator, json_quote(shard.file), shard.bytes, shard.tokens, shard.documents,
        hex(shard.checksum));
    separator = ",\n";
  }
  json += "\n  ]\n}\n";
  write_file(folder / kIndexName, json);
}

}  // namespace gsa::data
