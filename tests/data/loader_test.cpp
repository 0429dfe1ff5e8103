#include "data/loader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "data/error.h"
#include "data/mixture.h"
#include "tests/data/support.h"

namespace gsa::data::test {
namespace {

constexpr uint64_t kSeed = 9;
constexpr int32_t kVocabulary = 257;
constexpr int64_t kLength = 8;

/// A folder with some hundred windows.
void make_folder(const std::filesystem::path& folder, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::vector<Document>> shards;
  for (const size_t count : {20, 30, 10}) shards.push_back(random_documents(random, count, 10));
  make_shards(folder, shards);
}

LoaderOptions options_for(const std::filesystem::path& folder) {
  LoaderOptions options;
  options.sources = {{.path = folder}};
  options.sequence_length = kLength;
  options.micro_batch = 2;
  options.vocabulary_size = kVocabulary;
  options.seed = 11;
  return options;
}

/// Takes `steps` steps on `ranks` ranks and stores each sample's inputs by its global number; a
/// number seen twice fails the test. Returns the number of the next sample.
int64_t take(LoaderOptions options, int ranks, int64_t steps,
             std::map<int64_t, std::vector<int32_t>>& samples) {
  options.ranks = ranks;
  for (options.rank = 0; options.rank < ranks; ++options.rank) {
    Loader loader(options);
    for (int64_t b = 0; b < steps * options.accumulation; ++b) {
      const Batch& batch = loader.next();
      for (int64_t i = 0; i < options.micro_batch; ++i) {
        const auto begin = batch.tokens.begin() + i * kLength;
        const bool fresh =
            samples.try_emplace(batch.first_sample + i, begin, begin + kLength).second;
        EXPECT_TRUE(fresh) << "sample " << batch.first_sample + i << " was seen twice";
      }
    }
  }
  return options.start_sample + steps * options.micro_batch * options.accumulation * ranks;
}

/// What the samples [0, count) must be, read straight from the window source.
std::map<int64_t, std::vector<int32_t>> expected_samples(const LoaderOptions& options,
                                                         int64_t count) {
  const WindowSource source(
      options.sources.front().path,
      {.sequence_length = kLength, .vocabulary_size = kVocabulary, .seed = options.seed});
  std::map<int64_t, std::vector<int32_t>> samples;
  Window window;
  for (int64_t n = 0; n < count; ++n) {
    source.read(n, window);
    samples[n] = {window.tokens.begin(), window.tokens.end() - 1};
  }
  return samples;
}

TEST(Loader, EveryWindowOnceInTheSeedsOrderOnAnyRanks) {
  const TempFolder folder;
  make_folder(folder.path(), kSeed);
  auto options = options_for(folder.path());
  const int64_t windows = Loader(options).windows();
  for (const int ranks : {1, 2, 3, 4}) {
    for (const int64_t accumulation : {1, 3}) {
      options.accumulation = accumulation;
      const int64_t per_step = options.micro_batch * accumulation * ranks;
      std::map<int64_t, std::vector<int32_t>> samples;
      // A whole epoch and some of the next.
      const int64_t end = take(options, ranks, windows / per_step + 2, samples);
      ASSERT_GT(end, windows);
      EXPECT_EQ(samples, expected_samples(options, end)) << ranks << " ranks";
    }
  }
}

TEST(Loader, ResumesOnOtherRanksMissAndRepeatNothing) {
  const TempFolder folder;
  make_folder(folder.path(), kSeed);
  auto options = options_for(folder.path());
  const int64_t windows = Loader(options).windows();
  std::map<int64_t, std::vector<int32_t>> samples;
  int round = 0;
  while (options.start_sample < windows) {
    constexpr std::array<int, 4> kRanks = {2, 3, 1, 4};
    constexpr std::array<int64_t, 3> kAccumulation = {1, 2, 3};
    options.accumulation = kAccumulation[static_cast<size_t>(round) % kAccumulation.size()];
    options.micro_batch = 1 + round % 2;
    const int ranks = kRanks[static_cast<size_t>(round) % kRanks.size()];
    options.start_sample = take(options, ranks, 1 + round % 5, samples);
    ++round;
  }
  EXPECT_GT(round, 5) << "the test wants several resumes in an epoch";
  EXPECT_EQ(samples, expected_samples(options, options.start_sample));
}

TEST(Loader, AnEpochHoldsEveryWindowExactlyOnce) {
  const TempFolder folder;
  make_folder(folder.path(), kSeed);
  const auto options = options_for(folder.path());
  const WindowSource source(
      folder.path(),
      {.sequence_length = kLength, .vocabulary_size = kVocabulary, .seed = options.seed});
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    std::vector<int> seen(static_cast<size_t>(source.windows()), 0);
    for (int64_t p = 0; p < source.windows(); ++p) {
      ++seen.at(static_cast<size_t>(source.window_at(epoch * source.windows() + p)));
    }
    EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), source.windows());
  }
}

TEST(Loader, BatchesHoldNextTokensSourcesAndOffsets) {
  const TempFolder folder;
  make_folder(folder.path(), kSeed);
  auto options = options_for(folder.path());
  const WindowSource source(folder.path(), {.sequence_length = kLength,
                                            .vocabulary_size = kVocabulary,
                                            .seed = options.seed,
                                            .document_starts = true});
  for (const bool reset : {false, true}) {
    options.reset_state_at_documents = reset;
    Loader loader(options);
    EXPECT_EQ(loader.tokenizer().name, "bytes");
    EXPECT_EQ(loader.batches(), -1);
    bool inner = false;
    for (int b = 0; b < 20; ++b) {
      const Batch& batch = loader.next();
      std::vector<int32_t> offsets;
      std::vector<int32_t> labels;
      std::vector<SourceId> sources;
      Window window;
      for (int64_t i = 0; i < options.micro_batch; ++i) {
        source.read(batch.first_sample + i, window);
        labels.insert(labels.end(), window.tokens.begin() + 1, window.tokens.end());
        sources.insert(sources.end(), window.sources.begin(), window.sources.end());
        offsets.push_back(static_cast<int32_t>(i * kLength));
        for (const int32_t start : window.document_starts) {
          if (reset && start > 0) offsets.push_back(static_cast<int32_t>(i * kLength) + start);
        }
      }
      offsets.push_back(static_cast<int32_t>(options.micro_batch * kLength));
      inner = inner || offsets.size() > static_cast<size_t>(options.micro_batch) + 1;
      EXPECT_EQ(batch.labels, labels);
      EXPECT_EQ(batch.sources, sources);
      EXPECT_EQ(batch.sequence_offsets, offsets);
    }
    EXPECT_EQ(inner, reset);
    EXPECT_GE(loader.data_wait_seconds(), 0.0);
  }
}

TEST(Loader, SequentialSplitsAllWindowsOverTheRanksAndEnds) {
  const TempFolder folder;
  make_folder(folder / "a", kSeed);
  make_folder(folder / "b", kSeed + 1);
  auto options = options_for(folder / "a");
  options.sources.push_back({.path = folder / "b"});
  options.visit = WindowVisit::sequential;
  for (const int ranks : {1, 2, 3}) {
    options.ranks = ranks;
    int64_t labels = 0;
    int64_t batches = -1;
    for (options.rank = 0; options.rank < ranks; ++options.rank) {
      Loader loader(options);
      if (batches < 0) batches = loader.batches();
      EXPECT_EQ(loader.batches(), batches) << "all ranks have the same number";
      for (int64_t b = 0; b < batches; ++b) {
        const auto& batch = loader.next();
        labels += std::count_if(batch.labels.begin(), batch.labels.end(),
                                [](int32_t label) { return label != kIgnoredLabel; });
      }
      expect_parts(message_of<DataError>([&] { loader.next(); }), {"batches have been read"});
    }
    const TokenStream a(folder / "a");
    const TokenStream b(folder / "b");
    EXPECT_EQ(labels, a.tokens() - 1 + b.tokens() - 1) << ranks << " ranks";
  }
}

TEST(Loader, MixesByWeightAndResumesAnywhere) {
  const TempFolder folder;
  make_folder(folder / "a", kSeed);
  make_folder(folder / "b", kSeed + 1);
  auto options = options_for(folder / "a");
  options.sources = {{.path = folder / "a", .weight = 3}, {.path = folder / "b", .weight = 1}};
  options.micro_batch = 1;
  const std::vector<double> weights = {3, 1};
  const Mixture mixture(weights);
  std::vector<std::unique_ptr<WindowSource>> sources;
  for (const auto& source : options.sources) {
    sources.push_back(std::make_unique<WindowSource>(
        source.path,
        WindowSource::Options{
            .sequence_length = kLength, .vocabulary_size = kVocabulary, .seed = options.seed}));
  }
  for (const int64_t start : {0, 1, 1000, 1'234'567}) {
    options.start_sample = start;
    Loader loader(options);
    for (int64_t n = start; n < start + 50; ++n) {
      const auto choice = mixture.at(n);
      Window window;
      sources[static_cast<size_t>(choice.source)]->read(choice.position, window);
      EXPECT_EQ(loader.next().labels,
                (std::vector<int32_t>(window.tokens.begin() + 1, window.tokens.end())));
    }
  }
}

TEST(Loader, WhatGoesWrongInThePrefetchReachesTheCaller) {
  const TempFolder folder;
  make_folder(folder.path(), kSeed);
  const auto options = options_for(folder.path());
  const TempFolder copy;
  std::filesystem::copy(folder.path(), copy.path(), std::filesystem::copy_options::recursive);
  // A token past the vocabulary, in a shard whose header claims the right one.
  auto bytes = read_bytes(copy / "shard-000001.gsa");
  bytes[256 + 1] = 0x70;
  write_bytes(copy / "shard-000001.gsa", bytes);
  auto damaged = options;
  damaged.sources = {{.path = copy.path()}};
  Loader loader(damaged);
  const int64_t windows = loader.windows();
  const auto message = message_of<DataError>([&] {
    for (int64_t b = 0; b < windows; ++b) loader.next();
  });
  expect_parts(message, {"shard-000001.gsa", "token 0 has id", "vocabulary has 257"});
  EXPECT_THROW(loader.next(), DataError) << "and again when asked again";
}

TEST(Loader, EndsWhileBatchesAreWaiting) {
  const TempFolder folder;
  make_folder(folder.path(), kSeed);
  auto options = options_for(folder.path());
  for (const int prefetch : {1, 8}) {
    options.prefetch = prefetch;
    const Loader untouched(options);
    Loader used(options);
    used.next();
  }
}

TEST(Loader, WrongOptionsAndDataAreNamed) {
  const TempFolder folder;
  make_folder(folder / "a", kSeed);
  const auto message = [&](const std::function<void(LoaderOptions&)>& change) {
    auto options = options_for(folder / "a");
    change(options);
    return message_of<DataError>([&] { const Loader loader(options); });
  };
  expect_parts(message([](auto& o) { o.sources.clear(); }), {"no data"});
  expect_parts(message([](auto& o) { o.micro_batch = 0; }), {"micro-batch (0)"});
  expect_parts(message([](auto& o) { o.rank = 1; }), {"rank 1 of 1"});
  expect_parts(message([](auto& o) { o.vocabulary_size = 256; }),
               {"257 ids", "vocabulary has 256"});
  expect_parts(message([&](auto& o) { o.sources[0].path = folder / "none"; }),
               {"none", "no such folder"});
  expect_parts(message([](auto& o) { o.sources[0].weight = -1; }), {"weight"});
}

}  // namespace
}  // namespace gsa::data::test
