// 100 B tokens over thousands of shards, in sparse files: opened, shuffled and read with next to no
// memory. What it takes in time is for tests/bench/loader_bench.

#include <gtest/gtest.h>

#include <set>

#include "data/loader.h"
#include "data/window_source.h"
#include "tests/data/sparse_shards.h"
#include "tests/data/support.h"

namespace gsa::data::test {
namespace {

constexpr SparseShards kSize{.shards = 2'000, .tokens_per_shard = 50'000'003};
constexpr int64_t kLength = 2048;
constexpr int64_t kSamples = 20'000;

/// A table of the order of 49 million windows would take three times as much, and more.
constexpr int64_t kLittleMemory = int64_t{64} << 20;

TEST(Scale, AHundredBillionTokensAreShuffledInLittleMemory) {
  const TempFolder folder;
  make_sparse_shards(folder.path(), kSize);
  const int64_t before = own_memory();
  const WindowSource source(
      folder.path(),
      {.sequence_length = kLength, .vocabulary_size = SparseShards::kVocabulary, .seed = 3});
  ASSERT_EQ(source.stream().tokens(), kSize.tokens());
  ASSERT_GE(kSize.tokens(), 100'000'000'000);
  ASSERT_EQ(source.windows(), (kSize.tokens() - 1) / kLength);
  std::set<int64_t> windows;
  std::set<int64_t> shards;
  Window window;
  for (int64_t position = 0; position < kSamples; ++position) {
    source.read(position, window);
    const int64_t begin = source.window_at(position) * kLength;
    windows.insert(begin);
    shards.insert(begin / kSize.tokens_per_shard);
    for (int64_t t = 0; t <= kLength; ++t) {
      const bool first = (begin + t) % kSize.tokens_per_shard == 0;
      const auto expected = first ? (begin + t) / kSize.tokens_per_shard + 1 : 0;
      ASSERT_EQ(window.tokens[static_cast<size_t>(t)], expected) << "token " << begin + t;
    }
  }
  EXPECT_EQ(windows.size(), static_cast<size_t>(kSamples)) << "a window came twice";
  EXPECT_GT(shards.size(), static_cast<size_t>(kSize.shards) * 99 / 100);
  if (!kSanitized) {
    EXPECT_LT(own_memory() - before, kLittleMemory);
  }
}

TEST(Scale, TheLoaderStartsAnywhereInIt) {
  const TempFolder folder;
  make_sparse_shards(folder.path(), kSize);
  LoaderOptions options;
  options.sources = {{.path = folder.path()}};
  options.sequence_length = kLength;
  options.micro_batch = 1;
  options.vocabulary_size = SparseShards::kVocabulary;
  options.reset_state_at_documents = true;
  options.start_sample = int64_t{40} << 20;
  Loader loader(options);
  const WindowSource source(folder.path(), {.sequence_length = kLength,
                                            .vocabulary_size = SparseShards::kVocabulary,
                                            .seed = options.seed,
                                            .document_starts = true});
  Window window;
  for (int64_t sample = options.start_sample; sample < options.start_sample + 100; ++sample) {
    const Batch& batch = loader.next();
    source.read(sample, window);
    EXPECT_EQ(batch.first_sample, sample);
    EXPECT_EQ(batch.labels, std::vector<int32_t>(window.tokens.begin() + 1, window.tokens.end()));
  }
}

}  // namespace
}  // namespace gsa::data::test
