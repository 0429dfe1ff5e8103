#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "data/sources.h"

namespace gsa::data::test {

/// Whether memory measured of this process is the address sanitizer's rather than the program's.
#ifdef __SANITIZE_ADDRESS__
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

/// A folder of its own for one test, removed at the end.
class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(std::string_view name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

/// A document as the tests make it.
struct Document {
  std::string text;
  std::string source;  ///< a set name; "" for no meta at all
};

/// Random documents of words, punctuation, line breaks, runs of spaces and some other scripts.
std::vector<Document> random_documents(std::mt19937_64& random, size_t count, size_t max_words);

/// The documents as lines of JSON in SlimPajama's form.
std::string to_jsonl(const std::vector<Document>& documents);

/// Writes `bytes` as they are, or compressed as the name's end (.gz, .zst) says; makes the folders.
void write_input(const std::filesystem::path& path, std::string_view bytes);
void write_bytes(const std::filesystem::path& path, std::string_view bytes);
std::string read_bytes(const std::filesystem::path& path);

/// Compressed as one zstd frame.
std::string zstd(std::string_view bytes);

/// The files below a folder with their contents, except temporary ones.
std::vector<std::pair<std::string, std::string>> contents_of(const std::filesystem::path& folder);

/// The message of the exception of type E that `action` throws; fails the test if it throws none.
template <class E>
std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const E& error) {
    return error.what();
  }
  ADD_FAILURE() << "no exception of the expected type";
  return {};
}

/// Fails unless `message` contains all `parts`.
void expect_parts(const std::string& message, const std::vector<std::string>& parts);

/// What kind of SentencePiece model to train.
struct ModelKind {
  std::string type = "bpe";
  std::string normalization = "identity";
  bool remove_extra_whitespaces = false;
  bool byte_fallback = true;
  bool end_of_sequence = true;
  std::string user_defined;  ///< symbols, separated by commas
};

/// Trains a small SentencePiece model on random documents and returns its path in `folder`.
std::filesystem::path train_model(const TempFolder& folder, const ModelKind& kind = {});

/// Makes a folder of byte-tokenized shards, one for each list of documents.
void make_shards(const std::filesystem::path& folder,
                 const std::vector<std::vector<Document>>& shards);

}  // namespace gsa::data::test
