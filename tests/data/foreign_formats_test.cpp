// The formats of others, held to samples written out byte by byte.

#include <gtest/gtest.h>

#include "data/error.h"
#include "data/index.h"
#include "data/llmc.h"
#include "data/loader.h"
#include "data/megatron.h"
#include "data/stream.h"
#include "tests/data/support.h"

namespace gsa::data::test {
namespace {

constexpr int32_t kVocabulary = 1 << 20;

/// `value` as `bytes` little-endian bytes.
std::string le(uint64_t value, size_t bytes) {
  std::string text;
  for (size_t i = 0; i < bytes; ++i) text += static_cast<char>(value >> (8 * i));
  return text;
}

std::string row(const std::vector<uint64_t>& values, size_t bytes) {
  std::string text;
  for (const auto value : values) text += le(value, bytes);
  return text;
}

/// An index of the sequences {3, 2, 4} in two documents, of which the first has two sequences.
std::string sample_index(uint8_t type, uint64_t width) {
  return std::string("MMIDIDX\0\0", 9) + le(1, 8) + le(type, 1) + le(3, 8) + le(3, 8) +
         row({3, 2, 4}, 4) + row({0, 3 * width, 5 * width}, 8) + row({0, 2, 3}, 8);
}

const std::vector<uint64_t> kSampleTokens = {7, 300, 9, 10, 2, 65535, 12, 13, 2};

std::vector<int32_t> all_tokens(const TokenStream& stream) {
  std::vector<int32_t> tokens(static_cast<size_t>(stream.tokens()));
  stream.copy(0, kVocabulary, tokens);
  return tokens;
}

std::string llmc(uint64_t magic, uint64_t version, const std::vector<uint64_t>& tokens,
                 size_t width) {
  constexpr size_t kRest = 253 * 4;
  return le(magic, 4) + le(version, 4) + le(tokens.size(), 4) + std::string(kRest, '\0') +
         row(tokens, width);
}

TEST(Megatron, IsReadInPlace) {
  const TempFolder folder;
  struct Type {
    uint8_t code;
    size_t width;
  };
  for (const Type type : {Type{8, 2}, Type{4, 4}}) {
    write_bytes(folder / "text_document.idx", sample_index(type.code, type.width));
    write_bytes(folder / "text_document.bin", row(kSampleTokens, type.width));
    for (const std::string name : {"text_document", "text_document.idx", "text_document.bin"}) {
      ASSERT_TRUE(is_megatron(folder / name));
      const TokenStream stream(folder / name);
      EXPECT_EQ(all_tokens(stream), (std::vector<int32_t>{7, 300, 9, 10, 2, 65535, 12, 13, 2}));
      std::vector<int32_t> starts;
      stream.document_starts(0, 9, starts);
      EXPECT_EQ(starts, (std::vector<int32_t>{0, 5}));
      stream.document_starts(3, 3, starts);
      EXPECT_EQ(starts, (std::vector<int32_t>{2}));
    }
  }
  // Training takes it like a folder of shards.
  LoaderOptions options;
  options.sources = {{.path = folder / "text_document"}};
  options.sequence_length = 4;
  options.micro_batch = 1;
  options.vocabulary_size = kVocabulary;
  options.visit = WindowVisit::sequential;
  options.reset_state_at_documents = true;
  Loader loader(options);
  EXPECT_EQ(loader.next().tokens, (std::vector<int32_t>{7, 300, 9, 10}));
  const Batch& second = loader.next();
  EXPECT_EQ(second.labels, (std::vector<int32_t>{65535, 12, 13, 2}));
  EXPECT_EQ(second.sequence_offsets, (std::vector<int32_t>{0, 1, 4}));
}

TEST(Megatron, TornPairsAreNamed) {
  const TempFolder folder;
  const auto message = [&] {
    return message_of<DataError>([&] { const TokenStream stream(folder / "a.idx"); });
  };
  const std::string index = sample_index(8, 2);
  write_bytes(folder / "a.idx", index);
  expect_parts(message(), {"a.bin", "cannot open"});
  write_bytes(folder / "a.bin", row(kSampleTokens, 2).substr(0, 10));
  expect_parts(message(), {"a.bin", "torn Megatron file", "10 bytes", "says 18"});
  write_bytes(folder / "a.bin", row(kSampleTokens, 2));
  for (size_t size = 9; size < index.size(); ++size) {
    write_bytes(folder / "a.idx", index.substr(0, size));
    expect_parts(message(), {"a.idx", "torn Megatron file"});
  }
  write_bytes(folder / "a.idx", sample_index(7, 2));
  expect_parts(message(), {"a.idx", "type code 7"});
}

TEST(Megatron, WritesThatFormat) {
  const TempFolder folder;
  make_shards(folder / "shards", {{{.text = "ab", .source = ""}}, {{.text = "c", .source = ""}}});
  write_megatron(folder / "shards", folder / "out");
  EXPECT_EQ(read_bytes(folder / "out.bin"), row({'a', 'b', 256, 'c', 256}, 2));
  EXPECT_EQ(read_bytes(folder / "out.idx"), std::string("MMIDIDX\0\0", 9) + le(1, 8) + le(8, 1) +
                                                le(2, 8) + le(3, 8) + row({3, 2}, 4) +
                                                row({0, 6}, 8) + row({0, 1, 2}, 8));
  EXPECT_EQ(all_tokens(TokenStream(folder / "out")), all_tokens(TokenStream(folder / "shards")));
}

TEST(Llmc, IsReadInPlace) {
  const TempFolder folder;
  write_bytes(folder / "gpt2/train_000001.bin", llmc(20240520, 1, {50256, 5, 6, 50256, 7}, 2));
  write_bytes(folder / "gpt2/train_000002.bin", llmc(20240520, 1, {50256, 9}, 2));
  write_bytes(folder / "llama.bin", llmc(20240801, 7, {128000, 5, 128000}, 4));
  const TokenStream gpt2(folder / "gpt2");
  EXPECT_EQ(all_tokens(gpt2), (std::vector<int32_t>{50256, 5, 6, 50256, 7, 50256, 9}));
  std::vector<int32_t> starts;
  gpt2.document_starts(1, 6, starts);
  EXPECT_EQ(starts, (std::vector<int32_t>{2, 4}));
  EXPECT_EQ(all_tokens(TokenStream(folder / "gpt2/train_000002.bin")),
            (std::vector<int32_t>{50256, 9}));
  EXPECT_EQ(all_tokens(TokenStream(folder / "llama.bin")),
            (std::vector<int32_t>{128000, 5, 128000}));
}

TEST(Llmc, TornFilesAreNamed) {
  const TempFolder folder;
  const std::string whole = llmc(20240520, 1, {50256, 5, 6}, 2);
  const auto message = [&](const std::string& bytes) {
    write_bytes(folder / "a.bin", bytes);
    return message_of<DataError>([&] { const TokenStream stream(folder / "a.bin"); });
  };
  expect_parts(message(whole.substr(0, whole.size() - 1)), {"a.bin", "torn llm.c file"});
  expect_parts(message(whole.substr(0, 100)), {"a.bin", "torn llm.c file"});
  expect_parts(message(llmc(20240520, 3, {5}, 2)), {"a.bin", "version 3"});
  expect_parts(message("something else"), {"a.bin", "no such folder"});
}

}  // namespace
}  // namespace gsa::data::test
