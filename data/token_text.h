/// Text from tokens as they come, one at a time.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/tokenizer.h"

namespace gsa::data {

/// Gives out the text of a growing sequence of tokens in pieces: together they are what decoding
/// the whole sequence gives. Tokens that complete no character yet are held back until their text
/// is whole. The time a token takes does not grow with the text.
class TokenText {
 public:
  /// The tokenizer must outlive this object.
  explicit TokenText(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  /// The text that became whole with this token.
  std::string add(int32_t token);

 private:
  const Tokenizer& tokenizer_;
  std::vector<int32_t> window_;  // the newest tokens: what a token's text may depend on
  size_t given_ = 0;             // bytes of the window's text that were given out
};

}  // namespace gsa::data
