#include "data/problems.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "data/error.h"

namespace gsa::data {
namespace {

struct Description {
  std::string_view name;
  std::string_view meaning;
  bool loses_text;
};

// In the order of enum Problem.
constexpr std::array<Description, kProblemKinds> kDescriptions = {{
    {"torn_file", "compressed data end early or are damaged; what came before was kept", true},
    {"empty_file", "the file holds nothing", true},
    {"not_json", "the line is not a JSON object; skipped", true},
    {"invalid_utf8", "the line is not UTF-8; skipped", true},
    {"no_text", "no field \"text\"; skipped", true},
    {"text_not_string", "\"text\" is not a string; skipped", true},
    {"empty_text", "\"text\" is empty; skipped", true},
    {"line_too_long", "the line is too long; skipped", true},
    {"no_meta", "no meta.redpajama_set_name; kept, source unknown", false},
    {"meta_is_string", "\"meta\" is a string of JSON; read all the same", false},
    {"unknown_source", "a set name that is not SlimPajama's; kept, source unknown", false},
}};

const Description& description(Problem kind) {
  return kDescriptions[static_cast<size_t>(kind)];
}

}  // namespace

bool loses_text(Problem kind) {
  return description(kind).loses_text;
}
std::string_view problem_name(Problem kind) {
  return description(kind).name;
}
std::string_view problem_meaning(Problem kind) {
  return description(kind).meaning;
}

Problem problem_of_name(std::string_view name) {
  for (size_t kind = 0; kind < kProblemKinds; ++kind) {
    if (kDescriptions[kind].name == name) return static_cast<Problem>(kind);
  }
  throw DataError(fmt::format("'{}' is not a kind of problem known to this program", name));
}

std::string describe(const ProblemEntry& entry) {
  const auto place = entry.line > 0 ? fmt::format("{}:{}", entry.file, entry.line) : entry.file;
  const auto detail =
      entry.detail.empty() ? std::string(problem_meaning(entry.kind)) : entry.detail;
  return fmt::format("{}: {}: {}", place, problem_name(entry.kind), detail);
}

void ProblemList::add(ProblemEntry entry) {
  ++counts[static_cast<size_t>(entry.kind)];
  if (named.size() < kMaxNamed) named.push_back(std::move(entry));
}

void ProblemList::add(const ProblemList& later) {
  std::transform(counts.begin(), counts.end(), later.counts.begin(), counts.begin(), std::plus<>());
  const size_t room = kMaxNamed - std::min(kMaxNamed, named.size());
  const auto count = static_cast<std::ptrdiff_t>(std::min(room, later.named.size()));
  named.insert(named.end(), later.named.begin(), later.named.begin() + count);
}

int64_t ProblemList::total() const {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

int64_t ProblemList::losses() const {
  int64_t sum = 0;
  for (size_t kind = 0; kind < kProblemKinds; ++kind) {
    if (kDescriptions[kind].loses_text) sum += counts[kind];
  }
  return sum;
}

}  // namespace gsa::data
