#include "trainer/metrics/json_line.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <limits>
#include <stdexcept>

namespace gsa {
namespace {

// Lines nest three deep; the bound keeps a damaged file from exhausting the stack.
constexpr int kDeepest = 8;
constexpr unsigned char kFirstPrintable = 0x20;
constexpr int kHexBase = 16;
constexpr size_t kHexDigits = 4;
constexpr unsigned kLargestEscaped = 0x7f;

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < kFirstPrintable) {
      out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    } else {
      out += c;
    }
  }
  return out + '"';
}

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  JsonValue document() {
    JsonValue value = object(0);
    skip_spaces();
    if (at_ != text_.size()) fail("the end of the line");
    return value;
  }

 private:
  [[noreturn]] void fail(std::string_view expected) const {
    throw std::runtime_error(fmt::format("column {}: expected {}", at_ + 1, expected));
  }

  void skip_spaces() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\r'))
      ++at_;
  }

  bool take(char c) {
    skip_spaces();
    if (at_ == text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  void require(char c) {
    if (!take(c)) fail(fmt::format("'{}'", c));
  }

  JsonValue object(int depth) {
    if (depth == kDeepest) fail("fewer nested objects");
    JsonValue value;
    value.kind = JsonValue::Kind::object;
    require('{');
    if (take('}')) return value;
    do {
      require('"');
      const std::string name = string();
      require(':');
      skip_spaces();
      value.members[name] = any(depth);
    } while (take(','));
    require('}');
    return value;
  }

  JsonValue any(int depth) {
    const char first = at_ < text_.size() ? text_[at_] : '\0';
    if (first == '{') return object(depth + 1);
    if (first != '"') return number();
    ++at_;
    JsonValue value;
    value.kind = JsonValue::Kind::text;
    value.text = string();
    return value;
  }

  JsonValue number() {
    JsonValue value;
    constexpr std::string_view kNull = "null";
    if (text_.substr(at_).starts_with(kNull)) {
      at_ += kNull.size();
      value.number = std::numeric_limits<double>::quiet_NaN();
      return value;
    }
    const auto [end, error] =
        std::from_chars(text_.data() + at_, text_.data() + text_.size(), value.number);
    if (error != std::errc() || !std::isfinite(value.number))
      fail("a number, a text, null or an object");
    at_ = static_cast<size_t>(end - text_.data());
    return value;
  }

  // The rest of a string whose opening quote has been taken.
  std::string string() {
    std::string out;
    while (at_ < text_.size() && text_[at_] != '"') {
      const char c = text_[at_++];
      out += c == '\\' ? escape() : c;
    }
    require('"');
    return out;
  }

  // The character of an escape whose backslash has been taken: those that the writer makes.
  char escape() {
    if (at_ == text_.size()) fail("an escaped character");
    const char c = text_[at_++];
    if (c == '"' || c == '\\' || c == '/') return c;
    unsigned code = 0;
    const std::string_view digits = c == 'u' ? text_.substr(at_, kHexDigits) : "";
    const auto [end, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), code, kHexBase);
    if (error != std::errc() || end != digits.data() + kHexDigits || code > kLargestEscaped) {
      fail("\\\", \\\\ or \\u00xx after a backslash");
    }
    at_ += kHexDigits;
    return static_cast<char>(code);
  }

  std::string_view text_;
  size_t at_ = 0;
};

}  // namespace

void JsonWriter::member(std::string_view name) {
  if (!text_.empty() && text_.back() != '{') text_ += ',';
  if (!name.empty() || !text_.empty()) text_ += quoted(name) + ':';
}

JsonWriter& JsonWriter::begin_object(std::string_view name) {
  member(name);
  text_ += '{';
  return *this;
}

JsonWriter& JsonWriter::end_object() {
  text_ += '}';
  return *this;
}

JsonWriter& JsonWriter::number(std::string_view name, double value) {
  member(name);
  text_ += std::isfinite(value) ? fmt::format("{}", value) : "null";
  return *this;
}

JsonWriter& JsonWriter::integer(std::string_view name, long long value) {
  member(name);
  text_ += fmt::format("{}", value);
  return *this;
}

JsonWriter& JsonWriter::text(std::string_view name, std::string_view value) {
  member(name);
  text_ += quoted(value);
  return *this;
}

JsonValue parse_json_line(std::string_view text) {
  return Parser(text).document();
}

}  // namespace gsa
