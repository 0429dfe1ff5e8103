#include "data/json_text.h"

#include <fmt/format.h>

#include <charconv>

#include "data/error.h"

namespace gsa::data {

std::string json_quote(std::string_view text) {
  constexpr unsigned char kFirstPrintable = 0x20;
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (c == '\n') {
      quoted += "\\n";
    } else if (static_cast<unsigned char>(c) < kFirstPrintable) {
      quoted += fmt::format("\\u{:04x}", static_cast<unsigned char>(c));
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

std::string hex(uint64_t value) {
  return fmt::format("{:016x}", value);
}

uint64_t parse_hex(std::string_view digits) {
  constexpr int kHexadecimal = 16;
  uint64_t value = 0;
  const char* end = digits.data() + digits.size();
  const auto [stop, error] = std::from_chars(digits.data(), end, value, kHexadecimal);
  if (error != std::errc() || stop != end) {
    throw DataError(fmt::format("'{}' is not a checksum of hexadecimal digits", digits));
  }
  return value;
}

}  // namespace gsa::data
