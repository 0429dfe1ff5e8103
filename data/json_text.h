#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace gsa::data {

/// `text` as a JSON string, quotes included.
std::string json_quote(std::string_view text);

/// Sixteen hexadecimal digits, the form in which the JSON files hold checksums (JSON numbers lose
/// bits past 2^53 in many readers).
std::string hex(uint64_t value);

/// The value of such digits. Throws DataError on anything else.
uint64_t parse_hex(std::string_view digits);

}  // namespace gsa::data
