#include "data/piece_boundaries.h"

namespace gsa::data {
namespace {

constexpr char32_t kSpaceSymbol = 0x2581;  // how pieces write a space
constexpr char32_t kReplacement = 0xFFFD;
constexpr int kCodeBits = 32;

constexpr int kTailBits = 6;
constexpr unsigned kTailMask = 0x3F;

bool is_tail(char c) {
  return (static_cast<unsigned char>(c) & 0xC0) == 0x80;
}

unsigned tail(char c) {
  return static_cast<unsigned char>(c) & kTailMask;
}

/// A space and U+2581 are one character to the model; it lives in the ASCII table as a space.
char32_t fold(char32_t code) {
  return code == kSpaceSymbol ? U' ' : code;
}

uint64_t pair_key(char32_t left, char32_t right) {
  return (static_cast<uint64_t>(left) << kCodeBits) | right;
}

}  // namespace

Utf8Char first_char(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  const size_t size = text.size();
  if (lead < 0x80) return {lead, 1};
  if (size >= 2 && (lead & 0xE0) == 0xC0 && is_tail(text[1])) {
    const char32_t code = ((lead & 0x1FU) << kTailBits) | tail(text[1]);
    if (code >= 0x80) return {code, 2};
  }
  if (size >= 3 && (lead & 0xF0) == 0xE0 && is_tail(text[1]) && is_tail(text[2])) {
    const char32_t code =
        ((lead & 0x0FU) << (2 * kTailBits)) | (tail(text[1]) << kTailBits) | tail(text[2]);
    if (code >= 0x800 && (code < 0xD800 || code > 0xDFFF)) return {code, 3};
  }
  if (size >= 4 && (lead & 0xF8) == 0xF0 && is_tail(text[1]) && is_tail(text[2]) &&
      is_tail(text[3])) {
    const char32_t code = ((lead & 0x07U) << (3 * kTailBits)) | (tail(text[1]) << (2 * kTailBits)) |
                          (tail(text[2]) << kTailBits) | tail(text[3]);
    if (code >= 0x10000 && code <= 0x10FFFF) return {code, 4};
  }
  return {kReplacement, 1};
}

void PieceBoundaries::add_piece(std::string_view piece) {
  if (piece.empty()) return;
  Utf8Char left = first_char(piece);
  piece.remove_prefix(left.bytes);
  while (!piece.empty()) {
    const Utf8Char right = first_char(piece);
    const char32_t a = fold(left.code);
    const char32_t b = fold(right.code);
    if (a < kAscii && b < kAscii) {
      ascii_.set(a * kAscii + b);
    } else {
      others_.insert(pair_key(a, b));
    }
    piece.remove_prefix(right.bytes);
    left = right;
  }
}

bool PieceBoundaries::joined(char32_t left, char32_t right) const {
  left = fold(left);
  right = fold(right);
  if (left < kAscii && right < kAscii) return ascii_[left * kAscii + right];
  return others_.contains(pair_key(left, right));
}

size_t PieceBoundaries::first_cut(std::string_view text, size_t limit) const {
  Utf8Char left = first_char(text);
  size_t at = left.bytes;
  while (at < text.size()) {
    const auto byte = static_cast<unsigned char>(text[at]);
    const Utf8Char right = byte < kAscii ? Utf8Char{byte, 1} : first_char(text.substr(at));
    if (!joined(left.code, right.code) || at + right.bytes > limit) return at;
    at += right.bytes;
    left = right;
  }
  return at;
}

}  // namespace gsa::data
