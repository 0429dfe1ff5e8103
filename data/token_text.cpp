#include "data/token_text.h"

#include <string_view>

namespace gsa::data {
namespace {

// Tokens that are decoded together, at most, and how many of them are kept as what comes before
// the next: enough for a character's bytes and for the space between two words.
constexpr size_t kWindow = 32;
constexpr size_t kContext = 8;

// Bytes of `text` up to the last whole UTF-8 character. A byte that is no character decodes to
// U+FFFD, which is whole.
size_t whole_characters(const std::string& text) {
  constexpr std::string_view kReplacement = "\xEF\xBF\xBD";
  size_t end = text.size();
  while (end >= kReplacement.size() &&
         text.compare(end - kReplacement.size(), kReplacement.size(), kReplacement) == 0) {
    end -= kReplacement.size();
  }
  return end;
}

}  // namespace

std::string TokenText::add(int32_t token) {
  window_.push_back(token);
  const std::string text = tokenizer_.decode(window_);
  const size_t whole = whole_characters(text);
  std::string piece;
  if (whole > given_) {
    piece = text.substr(given_, whole - given_);
    given_ = whole;
  }
  if (window_.size() >= kWindow && given_ == text.size()) {
    const std::vector<int32_t> context(window_.end() - kContext, window_.end());
    const size_t bytes = tokenizer_.decode(context).size();
    // Without text of its own the context could not hold a space apart from the text before it.
    if (bytes > 0) {
      window_ = context;
      given_ = bytes;
    }
  }
  return piece;
}

}  // namespace gsa::data
