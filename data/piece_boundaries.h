#pragma once

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <unordered_set>

namespace gsa::data {

/// One character of UTF-8 text as SentencePiece reads it: a malformed byte is U+FFFD of length 1.
struct Utf8Char {
  char32_t code = 0;
  size_t bytes = 0;
};

/// The first character of `text`, which is not empty.
Utf8Char first_char(std::string_view text);

/// The places where byte-pair encoding (BPE) can be cut without changing its outcome. BPE joins two
/// neighbours only into a piece of the vocabulary, so between two characters that stand side by
/// side in no piece nothing is ever joined, and the two sides can be encoded apart. A space counts
/// as U+2581, as in the pieces. Pairs of ASCII characters are looked up in a bit table.
class PieceBoundaries {
 public:
  /// Learns the neighbours inside one piece of the vocabulary.
  void add_piece(std::string_view piece);

  /// The length in bytes, at least 1, of the longest start of `text` (not empty) that ends before
  /// `limit` bytes at the first place where a cut changes nothing, or at a character's end before
  /// `limit` if there is none.
  [[nodiscard]] size_t first_cut(std::string_view text, size_t limit) const;

 private:
  static constexpr size_t kAscii = 128;

  [[nodiscard]] bool joined(char32_t left, char32_t right) const;

  std::bitset<kAscii * kAscii> ascii_;
  std::unordered_set<uint64_t> others_;
};

}  // namespace gsa::data
