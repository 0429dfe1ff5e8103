#include "trainer/config/values.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>

namespace gsa {
namespace {

constexpr int kDecimalBase = 10;
// No exponent beyond this can give a count other than zero, and none below it overflows an int.
constexpr int kLargestExponent = 1000;

// The power of ten that a suffix stands for, or no value.
std::optional<int> suffix_exponent(char suffix) {
  switch (suffix) {
    case 'K':
      return 3;
    case 'M':
      return 6;
    case 'B':
      return 9;
    case 'T':
      return 12;
    default:
      return std::nullopt;
  }
}

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

// Removes `1e9`'s exponent from the end of `text` and returns it: 0 where there is none, no value
// where it is malformed.
std::optional<int> take_exponent(std::string_view& text) {
  const size_t mark = text.find_first_of("eE");
  if (mark == std::string_view::npos) return 0;
  std::string_view digits = text.substr(mark + 1);
  text = text.substr(0, mark);
  if (digits.starts_with('+')) digits.remove_prefix(1);
  int exponent = 0;
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), exponent, kDecimalBase);
  const bool whole = error == std::errc() && end == digits.data() + digits.size();
  if (!whole || std::abs(exponent) > kLargestExponent) return std::nullopt;
  return exponent;
}

// mantissa * 10^exponent if that is whole and within kLargestCount.
std::optional<int64_t> scale(int64_t mantissa, int exponent) {
  if (mantissa == 0) return 0;
  for (; exponent > 0; --exponent) {
    if (mantissa > kLargestCount / kDecimalBase) return std::nullopt;
    mantissa *= kDecimalBase;
  }
  for (; exponent < 0; ++exponent) {
    if (mantissa % kDecimalBase != 0) return std::nullopt;
    mantissa /= kDecimalBase;
  }
  return mantissa <= kLargestCount ? std::optional(mantissa) : std::nullopt;
}

}  // namespace

std::optional<int64_t> parse_count(std::string_view text) {
  const bool negative = text.starts_with('-');
  if (negative) text.remove_prefix(1);
  if (text.empty()) return std::nullopt;

  int exponent = 0;
  if (const auto suffix = suffix_exponent(text.back())) {
    exponent += *suffix;
    text.remove_suffix(1);
  }
  const auto written = take_exponent(text);
  if (!written) return std::nullopt;
  exponent += *written;

  int64_t mantissa = 0;
  bool any_digit = false;
  bool after_point = false;
  for (const char c : text) {
    if (c == '.' && !after_point) {
      after_point = true;
      continue;
    }
    if (!is_digit(c) || mantissa > kLargestCount / kDecimalBase) return std::nullopt;
    mantissa = mantissa * kDecimalBase + (c - '0');
    any_digit = true;
    if (after_point) --exponent;
  }
  if (!any_digit) return std::nullopt;
  const auto value = scale(mantissa, exponent);
  if (!value) return std::nullopt;
  return negative ? -*value : *value;
}

std::optional<double> parse_real(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) {
    return std::nullopt;
  }
  return value;
}

std::optional<bool> parse_boolean(std::string_view text) {
  if (text == "true") return true;
  if (text == "false") return false;
  return std::nullopt;
}

std::optional<double> parse_duration(std::string_view text) {
  struct Unit {
    char name;
    int64_t seconds;
  };
  constexpr int64_t kMinute = 60;
  constexpr int64_t kHour = 60 * kMinute;
  constexpr int64_t kDay = 24 * kHour;
  constexpr int64_t kLongest = 3650 * kDay;
  int64_t total = 0;
  for (const Unit& unit : {Unit{'d', kDay}, Unit{'h', kHour}, Unit{'m', kMinute}, Unit{'s', 1}}) {
    int64_t number = 0;
    const char* text_end = text.data() + text.size();
    const auto [end, error] = std::from_chars(text.data(), text_end, number, kDecimalBase);
    if (error != std::errc() || end == text_end || *end != unit.name) continue;
    if (number < 0 || number > kLongest / unit.seconds) return std::nullopt;
    total += number * unit.seconds;
    text.remove_prefix(static_cast<size_t>(end - text.data()) + 1);
  }
  if (!text.empty() || total == 0 || total > kLongest) return std::nullopt;
  return static_cast<double>(total);
}

std::string format_real(double value) {
  return fmt::format("{}", value);
}

}  // namespace gsa
