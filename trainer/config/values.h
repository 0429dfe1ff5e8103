// Text to value and back for the types that configuration keys and command-line options have.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace gsa {

// Counts beyond this are refused: what is computed from them must stay inside int64_t.
inline constexpr int64_t kLargestCount = 1'000'000'000'000'000'000;

// A whole number, exactly: `64`, `16K`, `0.5M`, `100B`, `1T` (powers of 1000), `1e9`. No value when
// the text is anything else, when it is no whole number (`0.5`) or beyond kLargestCount.
std::optional<int64_t> parse_count(std::string_view text);

// A finite decimal number: `0.1`, `3e-4`, `-2`. No value for anything else.
std::optional<double> parse_real(std::string_view text);

// `true` or `false`. No value for anything else.
std::optional<bool> parse_boolean(std::string_view text);

// A time in seconds from whole days, hours, minutes and seconds in this order: `23h50m`, `1d12h`,
// `90m`, `45s`. No value for anything else, for 0 and for more than ten years.
std::optional<double> parse_duration(std::string_view text);

// The shortest decimal text that parse_real reads back to the same bits.
std::string format_real(double value);

}  // namespace gsa
