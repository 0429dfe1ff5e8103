#include "data/byte_tokenizer.h"

#include <algorithm>
#include <array>

#include "data/checksum.h"

namespace gsa::data {
namespace {

constexpr int32_t kByteValues = 256;
constexpr size_t kSinkTokens = 4096;  // ids handed over at once

class ByteTokenizer final : public Tokenizer {
 public:
  ByteTokenizer()
      : Tokenizer({.name = std::string(kByteTokenizerName),
                   .hash = checksum_of(std::as_bytes(std::span(kByteTokenizerName))),
                   .vocabulary_size = kByteValues + 1,
                   .end_of_sequence = kByteValues}) {}

  void encode_to(std::string_view text, const Sink& sink) const override {
    std::array<int32_t, kSinkTokens> ids;
    while (!text.empty()) {
      const auto part = text.substr(0, kSinkTokens);
      std::transform(part.begin(), part.end(), ids.begin(),
                     [](char c) { return static_cast<int32_t>(static_cast<unsigned char>(c)); });
      sink(std::span(ids).first(part.size()));
      text.remove_prefix(part.size());
    }
  }

  [[nodiscard]] std::string decode(std::span<const int32_t> tokens) const override {
    check_ids(tokens);
    std::string text;
    text.reserve(tokens.size());
    for (const int32_t token : tokens) {
      if (token < kByteValues) text += static_cast<char>(token);
    }
    return text;
  }
};

}  // namespace

std::unique_ptr<Tokenizer> make_byte_tokenizer() {
  return std::make_unique<ByteTokenizer>();
}

}  // namespace gsa::data
