#include "data/tokenizer.h"

#include <fmt/format.h>

#include "data/byte_tokenizer.h"
#include "data/error.h"
#include "data/json_text.h"
#include "data/sentencepiece_tokenizer.h"

namespace gsa::data {

void Tokenizer::encode(std::string_view text, std::vector<int32_t>& tokens) const {
  encode_to(text, [&tokens](std::span<const int32_t> ids) {
    tokens.insert(tokens.end(), ids.begin(), ids.end());
  });
}

void Tokenizer::check_ids(std::span<const int32_t> tokens) const {
  for (const int32_t token : tokens) {
    if (token < 0 || token >= vocabulary_size()) {
      throw DataError(fmt::format("token id {} is outside the {} ids of tokenizer {}", token,
                                  vocabulary_size(), name()));
    }
  }
}

std::unique_ptr<Tokenizer> make_tokenizer(const std::string& model) {
  if (model == kByteTokenizerName) return make_byte_tokenizer();
  return load_sentencepiece(model);
}

std::unique_ptr<Tokenizer> tokenizer_of_folder(const std::filesystem::path& folder,
                                               const TokenizerInfo& info) {
  if (info.name == kByteTokenizerName) return make_byte_tokenizer();
  const auto copy = folder / kTokenizerCopy;
  auto tokenizer = load_sentencepiece(copy);
  if (tokenizer->hash() != info.hash) {
    throw DataError(
        fmt::format("{}: this model's hash is {}, but the shards beside it were made with {} of "
                    "hash {}; put that "
                    "model in its place",
                    copy.string(), hex(tokenizer->hash()), info.name, hex(info.hash)));
  }
  return tokenizer;
}

}  // namespace gsa::data
