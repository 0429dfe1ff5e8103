#pragma once

#include <memory>
#include <string_view>

#include "data/tokenizer.h"

namespace gsa::data {

inline constexpr std::string_view kByteTokenizerName = "bytes";

/// The tokenizer without a model: ids 0..255 are the bytes of the text, 256 is the end of sequence.
std::unique_ptr<Tokenizer> make_byte_tokenizer();

}  // namespace gsa::data
