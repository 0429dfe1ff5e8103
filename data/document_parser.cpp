#include "data/document_parser.h"

#include <fmt/format.h>
#include <simdjson.h>

namespace gsa::data {
namespace {

static_assert(kLinePadding >= simdjson::SIMDJSON_PADDING);

constexpr std::string_view kText = "text";
constexpr std::string_view kMeta = "meta";
constexpr std::string_view kSetName = "redpajama_set_name";

ParsedLine problem(Problem kind, std::string detail = {}) {
  return {.problem = kind, .detail = std::move(detail), .text = {}, .source = kUnknownSource};
}

/// Fills in the source from the set's name in `meta`.
void read_source(simdjson::dom::element meta, ParsedLine& line) {
  std::string_view name;
  if (meta[kSetName].get(name) != simdjson::SUCCESS) {
    line.problem = Problem::no_meta;
    return;
  }
  line.source = source_of_name(name);
  if (line.source == kUnknownSource) {
    line.problem = Problem::unknown_source;
    line.detail =
        fmt::format("set '{}' is not in the table; kept as {}", name, kSourceNames[kUnknownSource]);
  }
}

}  // namespace

struct DocumentParser::State {
  simdjson::dom::parser lines;
  simdjson::dom::parser metas;  // of its own: `text` must outlive the reading of meta
};

DocumentParser::DocumentParser() : state_(std::make_unique<State>()) {}
DocumentParser::~DocumentParser() = default;
DocumentParser::DocumentParser(DocumentParser&&) noexcept = default;
DocumentParser& DocumentParser::operator=(DocumentParser&&) noexcept = default;

void DocumentParser::trim() {
  state_ = std::make_unique<State>();
}

ParsedLine DocumentParser::parse(std::string_view line) {
  simdjson::dom::element root;
  constexpr bool kCopyFirst = false;  // the caller gives the padding
  const auto error = state_->lines.parse(line.data(), line.size(), kCopyFirst).get(root);
  if (error == simdjson::UTF8_ERROR) return problem(Problem::invalid_utf8);
  if (error != simdjson::SUCCESS) return problem(Problem::not_json, simdjson::error_message(error));
  simdjson::dom::object object;
  if (root.get(object) != simdjson::SUCCESS) {
    return problem(Problem::not_json, "JSON, but not an object");
  }
  simdjson::dom::element text;
  ParsedLine parsed;
  if (object.at_key(kText).get(text) != simdjson::SUCCESS) return problem(Problem::no_text);
  if (text.get(parsed.text) != simdjson::SUCCESS) return problem(Problem::text_not_string);
  if (parsed.text.empty()) return problem(Problem::empty_text);

  simdjson::dom::element meta;
  std::string_view meta_text;
  if (object.at_key(kMeta).get(meta) != simdjson::SUCCESS) {
    parsed.problem = Problem::no_meta;
  } else if (meta.get(meta_text) != simdjson::SUCCESS) {
    read_source(meta, parsed);
  } else if (state_->metas.parse(meta_text.data(), meta_text.size()).get(meta) !=
             simdjson::SUCCESS) {
    parsed.problem = Problem::no_meta;
    parsed.detail = "\"meta\" is a string, but not of JSON; kept, source unknown";
  } else {
    parsed.problem = Problem::meta_is_string;
    read_source(meta, parsed);
  }
  return parsed;
}

}  // namespace gsa::data
