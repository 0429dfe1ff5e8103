// How fast a loader opens a folder of shards and hands out batches:
//
//     loader_bench FOLDER [BATCHES]
//
// Sequences of 2048 tokens in batches of 8, 2000 batches unless given. The processor time is that
// of all threads: the prefetching one and the one that takes the batches.

#include <fmt/format.h>

#include <chrono>
#include <ctime>
#include <exception>
#include <string>

#include "data/loader.h"

namespace {

constexpr int64_t kLength = 2048;
constexpr int64_t kMicroBatch = 8;
constexpr int kBatches = 2000;
constexpr int32_t kVocabulary = 1 << 18;

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
  const auto start = Clock::now();
  gsa::data::Loader loader(options);
  fmt::print("opened in {:.3f} s: {} windows\n", seconds_since(start), loader.windows());
  const auto first = Clock::now();
  const std::clock_t processor_start = std::clock();
  int64_t sum = 0;  // so that the batches are used
  for (int b = 0; b < batches; ++b) sum += loader.next().tokens.back();
  const double wall = seconds_since(first);
  const double processor = static_cast<double>(std::clock() - processor_start) / CLOCKS_PER_SEC;
  const double tokens = static_cast<double>(batches) * kLength * kMicroBatch;
  fmt::print("{:.0f} tokens/s by wall clock, {:.0f} by processor time (checksum {})\n",
             tokens / wall, tokens / processor, sum);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc < 2) throw std::runtime_error("usage: loader_bench FOLDER [BATCHES]");
    measure(argv[1], argc > 2 ? std::stoi(argv[2]) : kBatches);
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "loader_bench: {}\n", error.what());
    return 1;
  }
}
