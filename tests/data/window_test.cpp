#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "data/error.h"
#include "data/mixture.h"
#include "data/stream.h"
#include "data/window_order.h"
#include "data/window_source.h"
#include "tests/data/support.h"

namespace gsa::data::test {
namespace {

constexpr uint64_t kSeed = 8;
constexpr int32_t kVocabulary = 257;

/// Some shards, one of them empty of documents, and their tokens as one list.
struct Corpus {
  explicit Corpus(const std::filesystem::path& folder) {
    std::mt19937_64 random(kSeed);
    std::vector<std::vector<Document>> shards;
    for (const size_t count : {5, 0, 1, 7}) shards.push_back(random_documents(random, count, 12));
    make_shards(folder, shards);
    for (const auto& shard : shards) {
      for (const auto& document : shard) {
        starts.push_back(static_cast<int64_t>(tokens.size()));
        for (const char c : document.text) tokens.push_back(static_cast<unsigned char>(c));
        tokens.push_back(kVocabulary - 1);
        sources.resize(tokens.size(), source_of_name(document.source));
      }
    }
  }
  std::vector<int32_t> tokens;
  std::vector<SourceId> sources;
  std::vector<int64_t> starts;
};

template <class T>
std::vector<T> slice(const std::vector<T>& all, int64_t begin, int64_t count) {
  return {all.begin() + begin, all.begin() + begin + count};
}

TEST(WindowOrder, IsAPermutationForAnySizeSeedAndEpoch) {
  for (const int64_t size : {1, 2, 3, 5, 64, 100, 1000, 4097}) {
    for (const uint64_t seed : {0UL, 1UL, ~0UL}) {
      for (const int64_t epoch : {0, 1, 7}) {
        const WindowOrder order(size, seed, epoch);
        std::vector<int> seen(static_cast<size_t>(size), 0);
        for (int64_t p = 0; p < size; ++p) ++seen.at(static_cast<size_t>(order.at(p)));
        EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), size) << size << " " << seed;
      }
    }
  }
}

TEST(WindowOrder, DiffersBySeedAndEpochAndLooksRandom) {
  constexpr int64_t kSize = 10'000;
  const WindowOrder order(kSize, 1, 0);
  const WindowOrder next_epoch(kSize, 1, 1);
  const WindowOrder next_seed(kSize, 2, 0);
  int64_t same_epoch = 0;
  int64_t same_seed = 0;
  int64_t ascents = 0;
  double correlation = 0;
  for (int64_t p = 0; p + 1 < kSize; ++p) {
    same_epoch += order.at(p) == next_epoch.at(p);
    same_seed += order.at(p) == next_seed.at(p);
    ascents += order.at(p) < order.at(p + 1);
    constexpr double kHalf = 0.5;
    correlation += (static_cast<double>(p) / kSize - kHalf) *
                   (static_cast<double>(order.at(p)) / kSize - kHalf) * 12 / kSize;
  }
  // Of a random permutation: about one fixed point, half of the steps up, correlation within 0.05
  // (five standard deviations).
  EXPECT_LT(same_epoch, 10);
  EXPECT_LT(same_seed, 10);
  EXPECT_NEAR(static_cast<double>(ascents) / kSize, 0.5, 0.02);
  EXPECT_NEAR(correlation, 0.0, 0.05);
}

TEST(WindowOrder, HugeSizesStayInRange) {
  constexpr int64_t kSize = (int64_t{1} << 40) + 1;
  const WindowOrder order(kSize, 3, 9);
  for (int64_t p = 0; p < 1000; ++p) {
    const int64_t at = order.at(kSize - 1 - p);
    EXPECT_GE(at, 0);
    EXPECT_LT(at, kSize);
  }
}

TEST(TokenStream, IsTheShardsBackToBack) {
  const TempFolder folder;
  const Corpus corpus(folder.path());
  const TokenStream stream(folder.path());
  const auto size = static_cast<int64_t>(corpus.tokens.size());
  ASSERT_EQ(stream.tokens(), size);
  std::mt19937_64 random(kSeed);
  for (int trial = 0; trial < 500; ++trial) {
    const auto begin = static_cast<int64_t>(random() % corpus.tokens.size());
    const auto count = static_cast<int64_t>(random() % static_cast<uint64_t>(size - begin + 1));
    std::vector<int32_t> tokens(static_cast<size_t>(count));
    stream.copy(begin, kVocabulary, tokens);
    EXPECT_EQ(tokens, slice(corpus.tokens, begin, count));
    std::vector<SourceId> sources(static_cast<size_t>(count));
    stream.sources(begin, sources);
    EXPECT_EQ(sources, slice(corpus.sources, begin, count));
    std::vector<int32_t> starts;
    stream.document_starts(begin, count, starts);
    std::vector<int32_t> expected;
    for (const int64_t start : corpus.starts) {
      if (start >= begin && start < begin + count) {
        expected.push_back(static_cast<int32_t>(start - begin));
      }
    }
    EXPECT_EQ(starts, expected);
  }
  std::vector<int32_t> past(2);
  EXPECT_THROW(stream.copy(size - 1, kVocabulary, past), DataError);
}

TEST(TokenStream, TokensPastTheVocabularyAreNamed) {
  const TempFolder folder;
  make_shards(folder.path(), {{{.text = "ab", .source = ""}}, {{.text = "c~", .source = ""}}});
  const TokenStream stream(folder.path());
  std::vector<int32_t> tokens(5);
  expect_parts(message_of<DataError>([&] { stream.copy(0, '~', tokens); }),
               {"shard-000000.gsa", "token 2 has id 256", "vocabulary has 126"});
  std::vector<int32_t> tail(2);
  expect_parts(message_of<DataError>([&] { stream.copy(3, '~', tail); }),
               {"shard-000001.gsa", "token 1 has id 126"});
}

TEST(TokenStream, AShardReplacedAfterOpeningIsRefused) {
  const TempFolder folder;
  make_shards(folder / "a", {{{.text = "abcd", .source = ""}, {.text = "", .source = ""}}});
  make_shards(folder / "b", {{{.text = "abc", .source = ""}, {.text = "", .source = ""}}});
  const TokenStream stream(folder / "a");
  std::filesystem::copy(folder / "b/shard-000000.gsa", folder / "a/shard-000000.gsa",
                        std::filesystem::copy_options::overwrite_existing);
  std::vector<int32_t> tokens(1);
  expect_parts(message_of<DataError>([&] { stream.copy(0, kVocabulary, tokens); }),
               {"shard-000000.gsa", "not the shard", "index.json"});
}

TEST(WindowSource, PredictsEveryTokenOnce) {
  const TempFolder folder;
  const Corpus corpus(folder.path());
  for (const int64_t length : {1, 3, 16}) {
    const WindowSource source(folder.path(), {.sequence_length = length,
                                              .vocabulary_size = kVocabulary,
                                              .seed = 5,
                                              .document_starts = true});
    const auto targets = static_cast<int64_t>(corpus.tokens.size()) - 1;
    ASSERT_EQ(source.windows(), targets / length);
    std::vector<int> predicted(corpus.tokens.size(), 0);
    Window window;
    for (int64_t position = 0; position < source.windows(); ++position) {
      source.read(position, window);
      const int64_t begin = source.window_at(position) * length;
      EXPECT_EQ(window.tokens, slice(corpus.tokens, begin, length + 1));
      EXPECT_EQ(window.sources, slice(corpus.sources, begin + 1, length));
      for (const int32_t start : window.document_starts) {
        EXPECT_TRUE(std::binary_search(corpus.starts.begin(), corpus.starts.end(), begin + start));
      }
      for (int64_t t = 1; t <= length; ++t) ++predicted[static_cast<size_t>(begin + t)];
    }
    const int64_t used = source.windows() * length;
    EXPECT_EQ(std::count(predicted.begin() + 1, predicted.begin() + 1 + used, 1), used);
  }
}

TEST(WindowSource, SequentialWindowsReachTheEnd) {
  const TempFolder folder;
  const Corpus corpus(folder.path());
  constexpr int64_t kLength = 16;
  const WindowSource source(folder.path(), {.sequence_length = kLength,
                                            .vocabulary_size = kVocabulary,
                                            .visit = WindowVisit::sequential});
  const auto targets = static_cast<int64_t>(corpus.tokens.size()) - 1;
  ASSERT_NE(targets % kLength, 0) << "the test wants a short rest";
  ASSERT_EQ(source.windows(), targets / kLength + 1);
  Window window;
  source.read(source.windows() - 1, window);
  EXPECT_EQ(window.labels, targets % kLength);
  EXPECT_EQ(slice(window.tokens, 0, window.labels + 1),
            slice(corpus.tokens, targets - window.labels, window.labels + 1));
}

TEST(WindowSource, BadDataIsNamed) {
  const TempFolder folder;
  make_shards(folder.path(), {{{.text = "short", .source = ""}}});
  const auto message = [&](const WindowSource::Options& options) {
    return message_of<DataError>([&] { const WindowSource source(folder.path(), options); });
  };
  expect_parts(message({.sequence_length = 6, .vocabulary_size = kVocabulary}),
               {"holds 6 tokens", "window of 7"});
  expect_parts(message({.sequence_length = 2, .vocabulary_size = 100}),
               {"tokenizer bytes of 257 ids", "vocabulary has 100"});
}

TEST(Mixture, SharesAreHitWithinATenthOfAPercent) {
  const std::vector<double> weights = {52.2, 26.7, 5.2, 4.2, 4.6, 3.8, 3.3};
  double sum = 0;
  for (const double weight : weights) sum += weight;
  const Mixture mixture(weights);
  constexpr int64_t kSamples = 1'000'000;
  std::vector<int64_t> counts(weights.size(), 0);
  for (int64_t n = 0; n < kSamples; ++n) {
    const auto choice = mixture.at(n);
    auto& count = counts[static_cast<size_t>(choice.source)];
    ASSERT_EQ(choice.position, count) << "each source's samples are taken in order";
    ++count;
    if (n % 1000 != 0) continue;
    for (size_t s = 0; s < weights.size(); ++s) {
      const double share = weights[s] / sum * static_cast<double>(n + 1);
      ASSERT_LT(std::abs(static_cast<double>(counts[s]) - share),
                static_cast<double>(weights.size()));
    }
  }
  for (size_t s = 0; s < weights.size(); ++s) {
    const double share = weights[s] / sum;
    const double found = static_cast<double>(counts[s]) / kSamples;
    EXPECT_NEAR(found / share, 1.0, 0.001) << "source " << s;
  }
}

TEST(Mixture, GoesOnThroughItsCycles) {
  const std::vector<double> weights = {1.0, 2.0};
  const Mixture mixture(weights);
  std::vector<int64_t> counts(2, 0);
  constexpr int64_t kSamples = int64_t{5} << 19;  // two cycles and a half
  for (int64_t n = 0; n < kSamples; ++n) {
    const auto choice = mixture.at(n);
    ASSERT_EQ(choice.position, counts[static_cast<size_t>(choice.source)]++);
  }
}

TEST(Mixture, TinyWeightsAreNotForgottenAndWrongOnesRefused) {
  const std::vector<double> tiny = {1.0, 1e-12};
  const Mixture mixture(tiny);
  int64_t found = 0;
  for (int64_t n = 0; n < (int64_t{1} << 20); ++n) found += mixture.at(n).source == 1;
  EXPECT_EQ(found, 1);
  for (const double wrong : std::initializer_list<double>{0.0, -1.0, std::nan(""), HUGE_VAL}) {
    const std::vector<double> weights = {1.0, wrong};
    EXPECT_THROW(Mixture{weights}, DataError);
  }
  EXPECT_THROW(Mixture{std::vector<double>{}}, DataError);
}

}  // namespace
}  // namespace gsa::data::test
