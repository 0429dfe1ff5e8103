#include "data/shard.h"

#include <gtest/gtest.h>

#include <cstring>

#include "data/checksum.h"
#include "data/error.h"
#include "data/index.h"
#include "data/shard_writer.h"
#include "tests/data/support.h"

namespace gsa::data::test {
namespace {

const TokenizerInfo kWide{
    .name = "wide.model", .hash = 77, .vocabulary_size = 100'000, .end_of_sequence = 2};

/// Writes three documents of five, one and four tokens.
void write_shard(const std::filesystem::path& path, const TokenizerInfo& tokenizer) {
  ShardWriter writer(path, tokenizer);
  PackedTokens first(width_for(tokenizer.vocabulary_size));
  first.append(std::vector<int32_t>{10, 11, 12, 13, 2, 2});
  writer.append(first, std::vector<int64_t>{5, 1}, std::vector<SourceId>{1, 3});
  PackedTokens second(width_for(tokenizer.vocabulary_size));
  const int32_t largest = tokenizer.vocabulary_size - 1;
  second.append(std::vector<int32_t>{largest, 21, 22, 2});
  writer.append(second, std::vector<int64_t>{4}, std::vector<SourceId>{1});
  writer.finish("{\"note\": 1}");
}

std::string open_message(const std::filesystem::path& path) {
  return message_of<DataError>([&] { const Shard shard(path); });
}

/// The file with `change` applied to its bytes.
void rewrite(const std::filesystem::path& path, const std::function<void(std::string&)>& change) {
  std::string bytes = read_bytes(path);
  change(bytes);
  write_bytes(path, bytes);
}

/// Sets a field of the header and the header's checksum to match.
template <class T>
void set_field(const std::filesystem::path& path, size_t offset, T value) {
  rewrite(path, [&](std::string& bytes) {
    std::memcpy(bytes.data() + offset, &value, sizeof(value));
    constexpr size_t kSummed = offsetof(ShardHeader, header_checksum);
    const uint64_t sum = checksum_of(std::as_bytes(std::span(bytes).first(kSummed)));
    std::memcpy(bytes.data() + kSummed, &sum, sizeof(sum));
  });
}

TEST(Shard, HoldsWhatWasWritten) {
  const TempFolder folder;
  for (const int32_t vocabulary : {32'000, 65'536, 65'537, 100'000}) {
    TokenizerInfo tokenizer = kWide;
    tokenizer.vocabulary_size = vocabulary;
    const auto path = folder / "a.gsa";
    write_shard(path, tokenizer);
    const Shard shard(path);
    shard.verify();
    EXPECT_EQ(shard.width(), vocabulary <= 65'536 ? TokenWidth::two : TokenWidth::four);
    EXPECT_EQ(shard.tokenizer(), tokenizer);
    EXPECT_EQ(shard.notes(), "{\"note\": 1}");
    ASSERT_EQ(shard.tokens(), 10);
    ASSERT_EQ(shard.documents(), 3);
    std::vector<int32_t> tokens(10);
    EXPECT_EQ(shard.copy(0, tokens), static_cast<uint32_t>(vocabulary - 1));
    EXPECT_EQ(tokens, (std::vector<int32_t>{10, 11, 12, 13, 2, 2, vocabulary - 1, 21, 22, 2}));
    std::vector<SourceId> sources(6);
    shard.sources(3, sources);
    EXPECT_EQ(sources, (std::vector<SourceId>{1, 1, 3, 1, 1, 1}));
    std::vector<int32_t> starts;
    shard.document_starts(5, 4, starts);
    EXPECT_EQ(starts, (std::vector<int32_t>{0, 1}));
    const auto totals = shard.totals_by_source();
    EXPECT_EQ(totals[1], (SourceTotals{.documents = 2, .tokens = 9}));
    EXPECT_EQ(totals[3], (SourceTotals{.documents = 1, .tokens = 1}));
  }
}

TEST(Shard, AnUnfinishedOneLeavesNothing) {
  const TempFolder folder;
  { const ShardWriter writer(folder / "a.gsa", kWide); }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(Shard, TwoWritersOfOneFileAreRefused) {
  const TempFolder folder;
  const ShardWriter writer(folder / "a.gsa", kWide);
  const auto message =
      message_of<OutputError>([&] { const ShardWriter second(folder / "a.gsa", kWide); });
  expect_parts(message, {"a.gsa.tmp", "another program"});
}

TEST(Shard, EveryTearIsFound) {
  const TempFolder folder;
  const auto path = folder / "a.gsa";
  write_shard(path, kWide);
  const std::string whole = read_bytes(path);
  for (size_t size = 0; size < whole.size(); ++size) {
    write_bytes(path, whole.substr(0, size));
    expect_parts(open_message(path), {"a.gsa", "torn", "gsa tokenize"});
  }
  write_bytes(path, whole + "x");
  expect_parts(open_message(path), {"a.gsa", "torn"});
}

TEST(Shard, EveryChangedByteIsFound) {
  const TempFolder folder;
  const auto path = folder / "a.gsa";
  write_shard(path, kWide);
  const std::string whole = read_bytes(path);
  for (size_t at = 0; at < whole.size(); ++at) {
    std::string changed = whole;
    changed[at] = static_cast<char>(changed[at] ^ 0x10);
    write_bytes(path, changed);
    EXPECT_THROW(Shard(path).verify(), DataError) << "byte " << at;
  }
}

TEST(Shard, BadFilesAreNamedWithTheCause) {
  const TempFolder folder;
  const auto path = folder / "a.gsa";
  expect_parts(open_message(path), {"a.gsa", "cannot open"});
  write_bytes(path, std::string(1000, 'x'));
  expect_parts(open_message(path), {"a.gsa", "not a token shard"});

  write_shard(path, kWide);
  rewrite(path, [](std::string& bytes) { bytes[sizeof(ShardHeader) + 1] ^= 1; });
  expect_parts(message_of<DataError>([&] { Shard(path).verify(); }),
               {"a.gsa", "wrong checksum", "gsa tokenize"});

  write_shard(path, kWide);
  set_field<uint32_t>(path, offsetof(ShardHeader, version), 9);
  expect_parts(open_message(path), {"a.gsa", "version 9", "reads version 1"});

  write_shard(path, kWide);
  rewrite(path, [](std::string& bytes) { bytes[offsetof(ShardHeader, tokens)] ^= 1; });
  expect_parts(open_message(path), {"a.gsa", "header's checksum is wrong"});
}

TEST(Shard, CountsThatOverflowAreRefusedBeforeTheyAreUsed) {
  const TempFolder folder;
  const auto path = folder / "a.gsa";
  constexpr uint64_t kHuge = uint64_t{1} << 62;
  for (const size_t field : {offsetof(ShardHeader, tokens), offsetof(ShardHeader, documents),
                             offsetof(ShardHeader, notes_bytes)}) {
    write_shard(path, kWide);
    set_field<uint64_t>(path, field, kHuge);
    expect_parts(open_message(path), {"a.gsa", "torn shard"});
  }
  write_shard(path, kWide);
  set_field<uint32_t>(path, offsetof(ShardHeader, token_width), 3);
  expect_parts(open_message(path), {"a.gsa", "torn shard"});
}

TEST(FolderIndex, RoundTrip) {
  const TempFolder folder;
  write_shard(folder / "a.gsa", kWide);
  write_shard(folder / "b.gsa", kWide);
  write_index(folder.path(), make_index(folder.path(), {"a.gsa", "b.gsa"}));
  const auto index = read_index(folder.path());
  EXPECT_EQ(index.tokenizer, kWide);
  EXPECT_EQ(index.tokens(), 20);
  EXPECT_EQ(index.documents(), 6);
  EXPECT_EQ(index.totals[1], (SourceTotals{.documents = 4, .tokens = 18}));
  ASSERT_EQ(index.shards.size(), 2U);
  EXPECT_EQ(index.shards[1].file, "b.gsa");
  EXPECT_EQ(index.shards[1].checksum, Shard(folder / "b.gsa").payload_checksum());
}

TEST(FolderIndex, MissingAndTornPartsAreNamed) {
  const TempFolder folder;
  const auto message = [&](const std::filesystem::path& path) {
    return message_of<DataError>([&] { read_index(path); });
  };
  expect_parts(message(folder / "none"), {"none", "no such folder", "gsa tokenize"});
  expect_parts(message(folder.path()), {"index.json", "missing", "gsa tokenize"});
  write_bytes(folder / "index.json", "{");
  expect_parts(message(folder.path()), {"index.json", "not an index"});
  write_bytes(folder / "index.json", R"({"format": "gsa-shards", "version": 8})");
  expect_parts(message(folder.path()), {"index.json", "version 8"});

  write_shard(folder / "a.gsa", kWide);
  write_shard(folder / "b.gsa", kWide);
  write_index(folder.path(), make_index(folder.path(), {"a.gsa", "b.gsa"}));
  rewrite(folder / "b.gsa", [](std::string& bytes) { bytes.pop_back(); });
  expect_parts(message(folder.path()), {"b.gsa", "torn shard", "index.json"});
  std::filesystem::remove(folder / "b.gsa");
  expect_parts(message(folder.path()), {"b.gsa", "shard missing", "index.json"});
}

TEST(FolderIndex, OneFolderHoldsOneTokenizer) {
  const TempFolder folder;
  write_shard(folder / "a.gsa", kWide);
  TokenizerInfo other = kWide;
  other.name = "other.model";
  other.hash = 78;
  write_shard(folder / "b.gsa", other);
  expect_parts(message_of<DataError>([&] {
                 make_index(folder.path(), {"a.gsa", "b.gsa"});
               }),
               {"b.gsa", "other.model", "wide.model", "one tokenizer"});
}

}  // namespace
}  // namespace gsa::data::test
