// How fast a loader opens a folder of shards and hands out batches:
//
//     loader_bench FOLDER [BATCHES]
//     loader_bench --sparse SHARDS FOLDER [BATCHES]
//
// Sequences of 2048 tokens in batches of 8, 2000 batches unless given. The processor time is that
// of all threads: the prefetching one and the one that takes the batches. --sparse first makes
// FOLDER: 100 B tokens in so many sparse files.

#include <fmt/format.h>

#include <chrono>
#include <ctime>
#include <exception>
#include <string>
#include <vector>

#include "data/loader.h"
#include "tests/data/sparse_shards.h"

namespace {

constexpr int64_t kLength = 2048;
constexpr int64_t kMicroBatch = 8;
constexpr int kBatches = 2000;
constexpr int32_t kVocabulary = 1 << 18;
constexpr int64_t kSparseTokens = 100'000'000'000;
constexpr double kMebibyte = 1 << 20;

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void measure(const std::string& folder, int batches) {
  gsa::data::LoaderOptions options;
  options.sources = {{.path = folder}};
  options.sequence_length = kLength;
  options.micro_batch = kMicroBatch;
  options.vocabulary_size = kVocabulary;
  const int64_t memory = gsa::data::test::own_memory();
  const auto start = Clock::now();
  gsa::data::Loader loader(options);
  const int64_t windows = loader.windows();
  loader.next();
  fmt::print("opened, first batch ready in {:.3f} s: {} windows\n", seconds_since(start), windows);
  const auto first = Clock::now();
  const std::clock_t processor_start = std::clock();
  int64_t sum = 0;  // so that the batches are used
  for (int b = 0; b < batches; ++b) sum += loader.next().tokens.back();
  const double wall = seconds_since(first);
  const double processor = static_cast<double>(std::clock() - processor_start) / CLOCKS_PER_SEC;
  const double tokens = static_cast<double>(batches) * kLength * kMicroBatch;
  fmt::print("{:.0f} tokens/s by wall clock, {:.0f} by processor time (checksum {})\n",
             tokens / wall, tokens / processor, sum);
  fmt::print("{:.1f} MiB of memory beside the mapped files, {:.3f} s waited for batches\n",
             static_cast<double>(gsa::data::test::own_memory() - memory) / kMebibyte,
             loader.data_wait_seconds());
}

}  // namespace

int main(int argc, char** argv) {
  try {
    std::vector<std::string> words(argv + 1, argv + argc);
    if (words.size() > 2 && words[0] == "--sparse") {
      const int64_t shards = std::stoll(words[1]);
      gsa::data::test::make_sparse_shards(
          words[2], {.shards = shards, .tokens_per_shard = kSparseTokens / shards});
      words.erase(words.begin(), words.begin() + 2);
    }
    if (words.empty()) {
      throw std::runtime_error("usage: loader_bench [--sparse SHARDS] FOLDER [BATCHES]");
    }
    measure(words[0], words.size() > 1 ? std::stoi(words[1]) : kBatches);
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "loader_bench: {}\n", error.what());
    return 1;
  }
}
