#include "data/index.h"

#include <fmt/format.h>

#include <fstream>
#include <iterator>
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

TokenizerInfo parse_tokenizer(simdjson::dom::element json) {
  return {.name = text_field(json, "name"),
          .hash = parse_hex(text_field(json, "hash")),
          .vocabulary_size = static_cast<int32_t>(int_field(json, "vocabulary_size")),
          .end_of_sequence = static_cast<int32_t>(int_field(json, "end_of_sequence"))};
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
    known.documents += int_field(total, "documents");
    known.tokens += int_field(total, "tokens");
  }
  for (const auto shard : array_field(root, "shards")) {
    index.shards.push_back({.file = text_field(shard, "file"),
                            .bytes = int_field(shard, "bytes"),
                            .tokens = int_field(shard, "tokens"),
                            .documents = int_field(shard, "documents"),
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
