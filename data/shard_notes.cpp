#include "data/shard_notes.h"

#include <fmt/format.h>

#include "data/error.h"
#include "data/json_fields.h"
#include "data/json_text.h"

namespace gsa::data {
namespace {

std::string inputs_json(const std::vector<ShardNotes::Input>& inputs) {
  std::string json;
  for (const auto& input : inputs) {
    json += fmt::format("{}{{\"name\": {}, \"bytes\": {}}}", json.empty() ? "" : ", ",
                        json_quote(input.name), input.bytes);
  }
  return json;
}

std::string counts_json(const ProblemList& problems) {
  std::string json;
  for (size_t kind = 0; kind < kProblemKinds; ++kind) {
    if (problems.counts[kind] == 0) continue;
    json += fmt::format("{}\"{}\": {}", json.empty() ? "" : ", ",
                        problem_name(static_cast<Problem>(kind)), problems.counts[kind]);
  }
  return json;
}

std::string named_json(const ProblemList& problems) {
  std::string json;
  for (const auto& entry : problems.named) {
    json += fmt::format("{}{{\"kind\": \"{}\", \"file\": {}, \"line\": {}, \"detail\": {}}}",
                        json.empty() ? "" : ", ", problem_name(entry.kind), json_quote(entry.file),
                        entry.line, json_quote(entry.detail));
  }
  return json;
}

}  // namespace

std::string to_json(const ShardNotes& notes) {
  return fmt::format(
      "{{\"inputs\": [{}], \"problems\": {{\"counts\": {{{}}}, \"named\": [{}]}}}}\n",
      inputs_json(notes.inputs), counts_json(notes.problems), named_json(notes.problems));
}

ShardNotes parse_notes(std::string_view json, const std::string& place) {
  ShardNotes notes;
  try {
    simdjson::dom::parser parser;
    const auto root = simdjson::dom::element(parser.parse(json.data(), json.size()));
    for (const auto input : array_field(root, "inputs")) {
      notes.inputs.push_back({text_field(input, "name"), int_field(input, "bytes")});
    }
    const auto problems = field(root, "problems");
    const auto counts = field(problems, "counts");
    for (const auto count : field_as<simdjson::dom::object>(problems, "counts")) {
      const auto kind = static_cast<size_t>(problem_of_name(count.key));
      notes.problems.counts[kind] = int_field(counts, count.key);
    }
    for (const auto entry : array_field(problems, "named")) {
      notes.problems.named.push_back({.kind = problem_of_name(text_field(entry, "kind")),
                                      .file = text_field(entry, "file"),
                                      .line = int_field(entry, "line"),
                                      .detail = text_field(entry, "detail")});
    }
  } catch (const simdjson::simdjson_error& error) {
    throw DataError(fmt::format("{}: the notes at its end are not as this program writes them ({})",
                                place, error.what()));
  }
  return notes;
}

}  // namespace gsa::data
