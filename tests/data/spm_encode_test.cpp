// What `tokenize` puts into shards against what the SentencePiece package's own spm_encode prints,
// document by document.
//
// Without more it does so on random documents and a small model trained on such. With GSA_CORPUS
// (text as `gsa tokenize` takes it) and GSA_TOKENIZER (a SentencePiece model) in the environment it
// takes a sample of that corpus, of GSA_CORPUS_DOCUMENTS documents (300 unless given; 0: all).

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sentencepiece_processor.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <stdexcept>

#include "data/index.h"
#include "data/shard.h"
#include "data/tokenize.h"
#include "tests/data/read_texts.h"
#include "tests/data/support.h"

namespace gsa::data::test {
namespace {

/// spm_encode takes a line for a document. Line feeds are given to it as a control character that
/// the document does not hold and that, as the line feed, no piece joins to another: both always
/// become a token of their own.
class LineFeeds {
 public:
  explicit LineFeeds(const sentencepiece::SentencePieceProcessor& model) : model_(model) {
    for (char c = 1; c < ' '; ++c) {
      if (c != '\n' && !joined(c)) candidates_ += c;
    }
    EXPECT_FALSE(joined('\n'));
  }

  [[nodiscard]] char stand_in(const std::string& text) const {
    const size_t unused = std::find_if(candidates_.begin(), candidates_.end(),
                                       [&](char c) { return text.find(c) == std::string::npos; }) -
                          candidates_.begin();
    if (unused == candidates_.size()) throw std::runtime_error("a text holds all candidates");
    return candidates_[unused];
  }
  [[nodiscard]] std::string hide(std::string text) const {
    std::replace(text.begin(), text.end(), '\n', stand_in(text));
    return text;
  }
  void show(const std::string& text, std::vector<int32_t>& ids) const {
    std::replace(ids.begin(), ids.end(), id_of(stand_in(text)), id_of('\n'));
  }

 private:
  /// Whether a piece holds the character beside others.
  [[nodiscard]] bool joined(char c) const {
    for (int id = 0; id < model_.GetPieceSize(); ++id) {
      const std::string& piece = model_.IdToPiece(id);
      if (piece.size() > 1 && piece.find(c) != std::string::npos) return true;
    }
    return false;
  }
  /// Of the piece that is this character, or else of its byte.
  [[nodiscard]] int32_t id_of(char c) const {
    const int32_t id = model_.PieceToId(std::string(1, c));
    if (id != model_.unk_id()) return id;
    return model_.PieceToId(fmt::format("<0x{:02X}>", static_cast<unsigned>(c)));
  }

  const sentencepiece::SentencePieceProcessor& model_;
  std::string candidates_;
};

/// The ids that spm_encode prints for each text.
std::vector<std::vector<int32_t>> spm_encode(const std::vector<std::string>& texts,
                                             const std::string& model, const TempFolder& folder) {
  sentencepiece::SentencePieceProcessor processor;
  EXPECT_TRUE(processor.Load(model).ok());
  const LineFeeds line_feeds(processor);
  {
    std::ofstream lines(folder / "lines", std::ios::binary);
    for (const auto& text : texts) lines << line_feeds.hide(text) << '\n';
  }
  const auto command = "spm_encode --output_format=id --model='" + model + "' < '" +
                       (folder / "lines").string() + "' > '" + (folder / "ids").string() + "'";
  EXPECT_EQ(std::system(command.c_str()), 0) << "spm_encode is in the package sentencepiece";
  std::ifstream output(folder / "ids");
  std::vector<std::vector<int32_t>> all;
  for (std::string line; std::getline(output, line);) {
    std::istringstream numbers(line);
    auto& ids = all.emplace_back();
    for (int32_t id = 0; numbers >> id;) ids.push_back(id);
    if (all.size() <= texts.size()) line_feeds.show(texts[all.size() - 1], ids);
  }
  return all;
}

/// The tokens of every document of a folder of shards.
std::vector<std::vector<int32_t>> tokens_of(const std::filesystem::path& folder) {
  std::vector<std::vector<int32_t>> documents;
  for (const auto& entry : read_index(folder).shards) {
    const Shard shard(folder / entry.file);
    for (int64_t d = 0; d < shard.documents(); ++d) {
      const int64_t begin = shard.document_begin(d);
      auto& ids = documents.emplace_back(static_cast<size_t>(shard.document_begin(d + 1) - begin));
      shard.copy(begin, ids);
    }
  }
  return documents;
}

/// `count` of them, evenly spread; all for 0.
template <class T>
std::vector<T> sample(const std::vector<T>& all, size_t count) {
  if (count == 0 || count >= all.size()) return all;
  std::vector<T> some;
  some.reserve(count);
  for (size_t i = 0; i < count; ++i) some.push_back(all[i * all.size() / count]);
  return some;
}

void expect_same_documents(const std::filesystem::path& corpus, const std::string& model,
                           size_t count) {
  const TempFolder folder;
  TokenizeOptions options;
  options.inputs = {corpus};
  options.output = folder / "shards";
  options.tokenizer = model;
  tokenize(options);
  const int32_t end = read_index(options.output).tokenizer.end_of_sequence;
  const auto all_texts = read_texts({corpus});
  const auto all_found = tokens_of(options.output);
  ASSERT_EQ(all_found.size(), all_texts.size());
  const auto texts = sample(all_texts, count);
  const auto found = sample(all_found, count);
  auto expected = spm_encode(texts, model, folder);
  ASSERT_EQ(expected.size(), texts.size());
  size_t tokens = 0;
  for (size_t d = 0; d < texts.size(); ++d) {
    expected[d].push_back(end);
    ASSERT_EQ(found[d], expected[d]) << "document " << d << ": " << texts[d].substr(0, 200);
    tokens += found[d].size();
  }
  std::printf("%zu documents, %zu tokens, all the same\n", texts.size(), tokens);
}

TEST(SpmEncode, GivesTheSameTokensForRandomDocuments) {
  const TempFolder folder;
  constexpr uint64_t kSeed = 4;
  constexpr size_t kDocuments = 100;
  constexpr size_t kWords = 50;
  std::mt19937_64 random(kSeed);
  auto documents = random_documents(random, kDocuments, kWords);
  documents.push_back({.text = "form\ffeed\vtab\r\n<s></s>\n\n", .source = ""});
  write_input(folder / "in.jsonl.zst", to_jsonl(documents));
  expect_same_documents(folder / "in.jsonl.zst", train_model(folder).string(), 0);
}

TEST(SpmEncode, GivesTheSameTokensForACorpus) {
  const char* corpus = std::getenv("GSA_CORPUS");
  const char* model = std::getenv("GSA_TOKENIZER");
  if (corpus == nullptr || model == nullptr) GTEST_SKIP() << "no GSA_CORPUS and GSA_TOKENIZER";
  const char* count = std::getenv("GSA_CORPUS_DOCUMENTS");
  constexpr size_t kSample = 300;
  expect_same_documents(corpus, model, count != nullptr ? std::stoul(count) : kSample);
}

}  // namespace
}  // namespace gsa::data::test
