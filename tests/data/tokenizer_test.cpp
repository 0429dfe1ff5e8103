#include "data/tokenizer.h"

#include <gtest/gtest.h>
#include <sentencepiece_processor.h>

#include <memory>
#include <thread>

#include "data/error.h"
#include "data/piece_boundaries.h"
#include "data/sentencepiece_model.h"
#include "data/token_text.h"
#include "tests/data/support.h"

namespace gsa::data::test {
namespace {

constexpr uint64_t kSeed = 4;

/// Texts that try the places where cutting could go wrong.
std::vector<std::string> hard_texts() {
  std::vector<std::string> texts = {
      "",
      " ",
      "   ",
      "a",
      " a",
      "a ",
      "\n",
      "\na\n\n b",
      "the  the   the    the",
      "\xE2\x96\x81the \xE2\x96\x81 the",  // U+2581 itself
      "<s> </s> <unk> <0x0A>",
      "slot attentionslot attention zzz naïve <s1><s1",
      "3.14159 2718281828",
      std::string("nul\0byte", 8),
      "語言語言語言 Größe🙂🙂naïve",
      "e\xCC\x81 \xCC\x81 \xC2\xA8",  // combining characters
      std::string(5000, 'z'),
      std::string(3000, ' ') + "x" + std::string(3000, '\n'),
  };
  std::mt19937_64 random(kSeed);
  constexpr size_t kCount = 200;
  constexpr size_t kWords = 60;
  for (auto& document : random_documents(random, kCount, kWords)) {
    texts.push_back(std::move(document.text));
  }
  return texts;
}

void expect_ids_of_library(const std::filesystem::path& model) {
  const auto tokenizer = make_tokenizer(model.string());
  sentencepiece::SentencePieceProcessor library;
  ASSERT_TRUE(library.Load(model.string()).ok());
  for (const auto& text : hard_texts()) {
    std::vector<int32_t> ids;
    tokenizer->encode(text, ids);
    EXPECT_EQ(ids, library.EncodeAsIds(text)) << model << ": '" << text << "'";
    EXPECT_EQ(tokenizer->decode(ids), library.DecodeIds(library.EncodeAsIds(text)));
  }
}

TEST(ByteTokenizer, GivesTheBytesAndBack) {
  const auto tokenizer = make_tokenizer("bytes");
  EXPECT_EQ(tokenizer->name(), "bytes");
  EXPECT_EQ(tokenizer->vocabulary_size(), 257);
  EXPECT_EQ(tokenizer->end_of_sequence(), 256);
  std::vector<int32_t> ids;
  tokenizer->encode("h\xC3\xA9", ids);
  EXPECT_EQ(ids, (std::vector<int32_t>{'h', 0xC3, 0xA9}));
  ids.push_back(tokenizer->end_of_sequence());
  EXPECT_EQ(tokenizer->decode(ids), "h\xC3\xA9");
  EXPECT_THROW(static_cast<void>(tokenizer->decode(std::vector<int32_t>{257})), DataError);
  EXPECT_THROW(static_cast<void>(tokenizer->decode(std::vector<int32_t>{-1})), DataError);
}

TEST(SentencePieceTokenizer, CutEncodingEqualsTheLibrary) {
  const TempFolder folder;
  const auto model = train_model(folder);
  EXPECT_TRUE(read_spec(read_bytes(model)).can_be_cut());
  expect_ids_of_library(model);
}

TEST(SentencePieceTokenizer, UserDefinedSymbolsEqualTheLibrary) {
  const TempFolder folder;
  const auto model = train_model(folder, {.user_defined = "slot\xE2\x96\x81"
                                                          "attention,zz,ïv,<s1>"});
  const auto spec = read_spec(read_bytes(model));
  EXPECT_TRUE(spec.can_be_cut());
  EXPECT_TRUE(spec.user_defined_pieces);
  expect_ids_of_library(model);
}

TEST(SentencePieceTokenizer, OtherModelsEqualTheLibrary) {
  const TempFolder folder;
  const std::vector<ModelKind> kinds = {
      {.type = "unigram"},
      {.type = "bpe", .byte_fallback = false},
      {.type = "bpe", .normalization = "nmt_nfkc", .remove_extra_whitespaces = true},
      {.type = "unigram", .normalization = "nmt_nfkc", .remove_extra_whitespaces = true}};
  for (const auto& kind : kinds) {
    const auto model = train_model(folder, kind);
    EXPECT_FALSE(read_spec(read_bytes(model)).can_be_cut());
    expect_ids_of_library(model);
  }
}

TEST(SentencePieceTokenizer, LongDocumentsEqualTheLibrary) {
  const TempFolder folder;
  std::mt19937_64 random(kSeed);
  constexpr size_t kWords = 1000;
  constexpr size_t kBytes = size_t{600} << 10;  // beyond what is encoded at once, twice
  std::string text;
  while (text.size() < kBytes) {
    text += random_documents(random, 1, kWords).front().text + std::string(300, ' ');
  }
  for (const ModelKind& kind : {ModelKind{}, ModelKind{.type = "bpe", .byte_fallback = false}}) {
    const auto model = train_model(folder, kind);
    sentencepiece::SentencePieceProcessor library;
    ASSERT_TRUE(library.Load(model.string()).ok());
    std::vector<int32_t> ids;
    make_tokenizer(model.string())->encode(text, ids);
    EXPECT_EQ(ids, library.EncodeAsIds(text));
  }
}

/// Expects that token by token the text comes out as it does at once; what completes no character
/// may be missing at its end.
void expect_text_in_pieces(const Tokenizer& tokenizer) {
  for (const auto& text : hard_texts()) {
    std::vector<int32_t> ids;
    tokenizer.encode(text, ids);
    ids.insert(ids.begin() + static_cast<long>(ids.size() / 2), tokenizer.end_of_sequence());
    TokenText pieces(tokenizer);
    std::string together;
    for (const int32_t id : ids) together += pieces.add(id);
    EXPECT_EQ(together, tokenizer.decode(ids)) << tokenizer.name() << ": '" << text << "'";
  }
}

TEST(TokenText, IsTheTextOfAllTokens) {
  const TempFolder folder;
  expect_text_in_pieces(*make_tokenizer("bytes"));
  expect_text_in_pieces(*make_tokenizer(train_model(folder).string()));
}

TEST(TokenText, HoldsBackWhatIsNoCharacterYet) {
  const TempFolder folder;
  const auto tokenizer = make_tokenizer(train_model(folder).string());
  std::vector<int32_t> ids;
  tokenizer->encode("a\xF0\x9F\x8D\x8B", ids);  // no piece of the model: four bytes
  TokenText text(*tokenizer);
  std::vector<std::string> pieces;
  for (const int32_t id : ids) pieces.push_back(text.add(id));
  ASSERT_GE(pieces.size(), 5U);
  EXPECT_EQ(pieces.back(), "\xF0\x9F\x8D\x8B");
  EXPECT_EQ(pieces[pieces.size() - 2], "");
}

TEST(SentencePieceTokenizer, ThreadsMayShareIt) {
  const TempFolder folder;
  const auto tokenizer = make_tokenizer(train_model(folder).string());
  const auto texts = hard_texts();
  std::vector<std::vector<int32_t>> ids(4);
  {
    std::vector<std::jthread> threads;
    threads.reserve(ids.size());
    for (auto& mine : ids) {
      threads.emplace_back([&] {
        for (const auto& text : texts) tokenizer->encode(text, mine);
      });
    }
  }
  for (const auto& other : ids) EXPECT_EQ(other, ids.front());
}

TEST(SentencePieceTokenizer, BadModelsAreNamed) {
  const TempFolder folder;
  const auto load = [](const std::filesystem::path& path) {
    return message_of<DataError>([&] { make_tokenizer(path.string()); });
  };
  expect_parts(load(folder / "none.model"), {"none.model", "cannot read"});
  write_bytes(folder / "text.model", "this is not a model");
  expect_parts(load(folder / "text.model"), {"text.model", "not a SentencePiece model"});
  const auto without_end = train_model(folder, {.end_of_sequence = false});
  expect_parts(load(without_end), {without_end.string(), "end-of-sequence", "--eos_id"});
}

TEST(PieceBoundaries, CutsOnlyBetweenCharactersThatNoPieceJoins) {
  PieceBoundaries boundaries;
  boundaries.add_piece("\xE2\x96\x81the");
  boundaries.add_piece("ab");
  boundaries.add_piece("é語");
  constexpr size_t kNoLimit = 1000;
  EXPECT_EQ(boundaries.first_cut("the", kNoLimit), 3U);
  EXPECT_EQ(boundaries.first_cut(" the the", kNoLimit), 4U);
  EXPECT_EQ(boundaries.first_cut("aba", kNoLimit), 2U);
  EXPECT_EQ(boundaries.first_cut("é語x", kNoLimit), 5U);
  EXPECT_EQ(boundaries.first_cut("語é", kNoLimit), 3U);
  // Without a place to cut, at a character's end before the limit.
  EXPECT_EQ(boundaries.first_cut("é語", 4), 2U);
}

}  // namespace
}  // namespace gsa::data::test
