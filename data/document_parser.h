#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "data/problems.h"
#include "data/sources.h"

namespace gsa::data {

/// Bytes that must be readable, with any content, after a line given to DocumentParser.
inline constexpr size_t kLinePadding = 64;

/// One line of JSON, read.
struct ParsedLine {
  /// A problem with the line, if any; loses_text(kind) says whether there is a document.
  std::optional<Problem> problem;
  std::string detail;
  std::string_view text;  ///< valid until the next parse()
  SourceId source = kUnknownSource;
};

/// Reads lines of SlimPajama's form: an object with "text" and "meta": {"redpajama_set_name":
/// NAME}. The whole line is checked as JSON and UTF-8. Memory follows the longest line since the
/// last trim().
class DocumentParser {
 public:
  DocumentParser();
  ~DocumentParser();
  DocumentParser(DocumentParser&&) noexcept;
  DocumentParser& operator=(DocumentParser&&) noexcept;

  /// `line` is followed by kLinePadding readable bytes.
  ParsedLine parse(std::string_view line);

  /// Gives back the memory that a long line took.
  void trim();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace gsa::data
