#pragma once

#include <string>
#include <string_view>

namespace gsa::data {

/// The settings of a SentencePiece model that decide how its text may be cut.
struct SentencePieceSpec {
  bool byte_pair = false;  ///< byte-pair encoding, not unigram, word or char
  bool byte_fallback = false;
  bool identity = true;  ///< no table of normalization rules
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
  bool whitespace_as_suffix = false;
  bool user_defined_pieces = false;  ///< the vocabulary has some

  /// Whether encoding run by run (piece_boundaries.h) gives the same ids as encoding the whole.
  /// Without byte fallback it would not: neighbouring unknown characters are joined into one id.
  [[nodiscard]] bool can_be_cut() const {
    return byte_pair && byte_fallback && identity && !remove_extra_whitespaces &&
           escape_whitespaces && !whitespace_as_suffix;
  }
};

/// Reads the settings from a model file's bytes, a ModelProto of sentencepiece_model.proto; absent
/// fields have the defaults given there. `model` is one that SentencePiece has accepted.
SentencePieceSpec read_spec(std::string_view model);

/// The same model with add_dummy_prefix off: protocol buffers merge a message field that occurs
/// twice, so it is enough to append one that holds this setting.
std::string without_dummy_prefix(std::string_view model);

}  // namespace gsa::data
