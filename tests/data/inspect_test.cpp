#include "data/inspect.h"

#include <gtest/gtest.h>

#include "data/error.h"
#include "tests/data/support.h"

namespace gsa::data::test {
namespace {

const std::vector<std::vector<Document>> kShards = {
    {{.text = "a book", .source = "RedPajamaBook"},
     {.text = "code\nhere", .source = "RedPajamaGithub"}},
    {{.text = "a paper", .source = "RedPajamaArXiv"},
     {.text = "more code", .source = "RedPajamaGithub"}}};

/// Of the 35 tokens above, each document's end included.
constexpr double kEntropy = 2.458510418535383;

TEST(Inspect, TellsWhatAFolderHolds) {
  const TempFolder folder;
  make_shards(folder / "out", kShards);
  EXPECT_TRUE(is_shard_folder(folder / "out"));
  EXPECT_FALSE(is_shard_folder(folder.path()));
  const auto report = inspect_folder(folder / "out", {.threads = 2});
  EXPECT_TRUE(report.verified);
  EXPECT_TRUE(report.faults.empty());
  ASSERT_TRUE(report.unigram_entropy);
  EXPECT_NEAR(*report.unigram_entropy, kEntropy, 1e-12);
  ASSERT_EQ(report.samples.size(), 3U);
  EXPECT_EQ(report.samples[0].text, "code\nhere");
  EXPECT_EQ(report.samples[1].text, "a book");
  EXPECT_EQ(report.samples[2].shard, "shard-000001.gsa");
  expect_parts(describe(report), {"2 shards, 4 documents, 35 tokens", "tokenizer bytes (257 ids",
                                  "RedPajamaGithub", "all 2 shards are whole", "  code here\n"});
}

TEST(Inspect, NamesDamagedShards) {
  const TempFolder folder;
  make_shards(folder.path(), kShards);
  auto bytes = read_bytes(folder / "shard-000001.gsa");
  bytes[300] = static_cast<char>(bytes[300] ^ 1);
  write_bytes(folder / "shard-000001.gsa", bytes);
  const auto report = inspect_folder(folder.path(), {.threads = 3});
  ASSERT_EQ(report.faults.size(), 1U);
  expect_parts(report.faults[0], {"shard-000001.gsa", "wrong checksum"});
  expect_parts(describe(report), {"1 of 2 shards are damaged"});
  const auto unread = inspect_folder(folder.path(), {.verify = false, .samples_per_source = 0});
  EXPECT_TRUE(unread.faults.empty());
  EXPECT_FALSE(unread.unigram_entropy);
  expect_parts(describe(unread), {"checksums: not checked"});
}

TEST(Inspect, AMissingFolderIsNamed) {
  const TempFolder folder;
  expect_parts(message_of<DataError>([&] { inspect_folder(folder / "none", {}); }),
               {"none", "no such folder"});
}

}  // namespace
}  // namespace gsa::data::test
