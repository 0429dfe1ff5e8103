#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace gsa::data {

/// What can be wrong with the input of `gsa tokenize`.
enum class Problem : uint8_t {
  torn_file,        ///< compressed data end early or are damaged: the rest of the file is lost
  empty_file,       ///< no bytes at all
  not_json,         ///< a line that is not a JSON object
  invalid_utf8,     ///< a line with bytes that are not UTF-8
  no_text,          ///< no field "text"
  text_not_string,  ///< "text" is something else than a string
  empty_text,       ///< "text" is ""
  line_too_long,    ///< longer than BlockLimits::max_line (block_reader.h)
  no_meta,          ///< no set name under meta.redpajama_set_name: kept, source unknown
  meta_is_string,   ///< "meta" is a string holding JSON: read all the same
  unknown_source,   ///< a set name that is not in the table: kept, source unknown
};

inline constexpr size_t kProblemKinds = 11;

/// Whether a document (or the rest of a file) is left out because of it.
bool loses_text(Problem kind);

/// Its name in reports, such as "not_json", and what it means for the reader.
std::string_view problem_name(Problem kind);
std::string_view problem_meaning(Problem kind);
/// Throws DataError for a name that is none.
Problem problem_of_name(std::string_view name);

/// One problem and its place.
struct ProblemEntry {
  Problem kind = Problem::not_json;
  std::string file;    ///< as the report names it: relative to the input folder
  int64_t line = 0;    ///< from 1; 0: the file as a whole
  std::string detail;  ///< what exactly, such as the parser's message or the unknown name
  friend bool operator==(const ProblemEntry&, const ProblemEntry&) = default;
};

/// "file:line: kind: detail".
std::string describe(const ProblemEntry& entry);

/// Problems of some part of the input: all are counted, the first kMaxNamed are kept with their
/// place.
struct ProblemList {
  static constexpr size_t kMaxNamed = 10'000;

  std::array<int64_t, kProblemKinds> counts{};
  std::vector<ProblemEntry> named;

  void add(ProblemEntry entry);
  /// Adds those of a later part.
  void add(const ProblemList& later);
  [[nodiscard]] int64_t count(Problem kind) const { return counts[static_cast<size_t>(kind)]; }
  [[nodiscard]] int64_t total() const;
  /// How many lost text.
  [[nodiscard]] int64_t losses() const;
};

}  // namespace gsa::data
