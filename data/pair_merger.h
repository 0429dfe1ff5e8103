#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace gsa::data {

/// One piece of a SentencePiece vocabulary; its id is its place in the list.
struct VocabularyPiece {
  enum class Kind : uint8_t {
    text,     ///< joined from text
    byte,     ///< "<0x41>": stands for a byte of a character that is no piece
    control,  ///< never comes from text, unknown included
    special,  ///< user-defined or unused: not supported here
  };
  std::string text;
  float score = 0;
  Kind kind = Kind::text;
};

/// Byte-pair encoding of short runs of text, as SentencePiece's: characters are joined pair by
/// pair, the pair whose piece has the highest score first, the leftmost of equals. Meant for runs
/// of some tens of bytes: every step looks at all pairs (R. Sennrich, B. Haddow, A. Birch, "Neural
/// Machine Translation of Rare Words with Subword Units", 2016). May be used by several threads.
class PairMerger {
 public:
  /// Longest run in characters.
  static constexpr size_t kMaxChars = 32;

  /// Null when the vocabulary has special pieces, lacks a byte, or has a piece with a character
  /// that is no piece itself: then joining by ids is not the same as joining texts.
  static std::unique_ptr<PairMerger> make(std::span<const VocabularyPiece> pieces);

  /// Puts the ids of `run` (spaces as such, no prefix added) into `ids`; false, if it is too long
  /// or not UTF-8.
  bool encode(std::string_view run, std::vector<int32_t>& ids) const;

 private:
  static constexpr size_t kByteValues = 256;
  static constexpr int32_t kNone = -1;

  struct Pair {
    uint64_t key = ~uint64_t{0};  // left id, right id
    int32_t joined = kNone;
  };

  PairMerger() = default;
  void add_char(char32_t code, int32_t id);
  void add_pairs(const std::unordered_map<std::string_view, int32_t>& ids);
  [[nodiscard]] int32_t char_id(char32_t code) const;
  [[nodiscard]] int32_t joined(int32_t left, int32_t right) const;
  [[nodiscard]] size_t slot(uint64_t key) const;

  std::array<int32_t, kByteValues> byte_ids_{};
  std::array<int32_t, 128> ascii_ids_{};
  std::unordered_map<char32_t, int32_t> other_ids_;
  std::vector<float> scores_;
  std::vector<Pair> pairs_;  // open addressing, a power of two
};

}  // namespace gsa::data
