#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace gsa::data {

/// What identifies a tokenizer. Shards carry it, so that tokens of two tokenizers never mix.
struct TokenizerInfo {
  std::string name;              ///< "bytes", or the file name of the model
  uint64_t hash = 0;             ///< XXH3 of the model's bytes
  int32_t vocabulary_size = 0;   ///< ids are in [0, vocabulary_size)
  int32_t end_of_sequence = -1;  ///< follows each document
  friend bool operator==(const TokenizerInfo&, const TokenizerInfo&) = default;
};

/// Text to token ids and back. Safe to use from many threads at once.
class Tokenizer {
 public:
  /// Receives ids in order, some at a time; the span is valid during the call only.
  using Sink = std::function<void(std::span<const int32_t>)>;

  virtual ~Tokenizer() = default;
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  [[nodiscard]] const TokenizerInfo& info() const { return info_; }
  [[nodiscard]] const std::string& name() const { return info_.name; }
  [[nodiscard]] uint64_t hash() const { return info_.hash; }
  [[nodiscard]] int32_t vocabulary_size() const { return info_.vocabulary_size; }
  [[nodiscard]] int32_t end_of_sequence() const { return info_.end_of_sequence; }

  /// The ids of UTF-8 `text` go to `sink`, without begin- or end-of-sequence. Memory stays bounded
  /// however long the text is.
  virtual void encode_to(std::string_view text, const Sink& sink) const = 0;

  /// Appends the ids of `text` to `tokens`.
  void encode(std::string_view text, std::vector<int32_t>& tokens) const;

  /// The text of `tokens`; control tokens such as end-of-sequence have none. Throws DataError for
  /// an id outside the vocabulary.
  [[nodiscard]] virtual std::string decode(std::span<const int32_t> tokens) const = 0;

  /// The model file's bytes, for keeping a copy beside the shards; empty for "bytes".
  [[nodiscard]] virtual std::string model_bytes() const { return {}; }

 protected:
  explicit Tokenizer(TokenizerInfo info) : info_(std::move(info)) {}
  /// Throws DataError when an id lies outside the vocabulary.
  void check_ids(std::span<const int32_t> tokens) const;

 private:
  TokenizerInfo info_;
};

/// The tokenizer named by `model`: "bytes" (ids 0..255 are the bytes, 256 the end of sequence), or
/// the path of a SentencePiece model. Throws DataError when the file is missing, is no
/// SentencePiece model, or defines no end-of-sequence token.
std::unique_ptr<Tokenizer> make_tokenizer(const std::string& model);

/// The name under which a shard folder keeps a copy of its SentencePiece model.
inline constexpr std::string_view kTokenizerCopy = "tokenizer.model";

/// The tokenizer that made the shards of `folder`: "bytes", or the copy of the model kept there.
/// Throws DataError when there is no copy or its hash is not `info.hash`.
std::unique_ptr<Tokenizer> tokenizer_of_folder(const std::filesystem::path& folder,
                                               const TokenizerInfo& info);

}  // namespace gsa::data
