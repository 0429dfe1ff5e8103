// Tokens a second of the whole tokenization against SentencePiece alone on one thread, on the same
// text, in one run:
//
//     tokenize_bench MODEL OUTPUT_FOLDER INPUT... [--threads N,N...] [--megabytes M]
//
// Both are given by processor time too, which other load on the machine hardly changes.
//
// SentencePiece is measured on the first M megabytes of text (20 unless given); the tokenization
// runs over all of the input, reading, decompressing, parsing and writing included, once for each
// number of threads (1 and one for each processor unless given). OUTPUT_FOLDER keeps the shards, in
// a folder for each. The largest memory is that of the process so far.

#include <fmt/format.h>
#include <sentencepiece_processor.h>
#include <sys/resource.h>

#include <chrono>
#include <ctime>
#include <exception>
#include <sstream>
#include <string>
#include <vector>

#include "data/tokenize.h"
#include "tests/data/read_texts.h"

namespace {

using Clock = std::chrono::steady_clock;

/// Wall and processor seconds (of all threads) since it was made.
class Stopwatch {
 public:
  [[nodiscard]] double wall() const {
    return std::chrono::duration<double>(Clock::now() - start_).count();
  }
  [[nodiscard]] double processor() const {
    return static_cast<double>(std::clock() - processor_start_) / CLOCKS_PER_SEC;
  }

 private:
  Clock::time_point start_ = Clock::now();
  std::clock_t processor_start_ = std::clock();
};

/// Tokens a second.
struct Rate {
  double wall = 0;
  double processor = 0;
};

struct Arguments {
  gsa::data::TokenizeOptions options;
  std::vector<int> threads = {1, 0};
  size_t bytes = size_t{20} << 20;
};

Arguments parse(const std::vector<std::string>& words) {
  constexpr int kMegabyteBits = 20;
  Arguments arguments;
  std::vector<std::string> plain;
  for (size_t i = 0; i < words.size(); ++i) {
    if (words[i] == "--threads") {
      arguments.threads.clear();
      std::istringstream numbers(words.at(++i));
      for (std::string number; std::getline(numbers, number, ',');) {
        arguments.threads.push_back(std::stoi(number));
      }
    } else if (words[i] == "--megabytes") {
      arguments.bytes = std::stoul(words.at(++i)) << kMegabyteBits;
    } else {
      plain.push_back(words[i]);
    }
  }
  arguments.options.tokenizer = plain.at(0);
  arguments.options.output = plain.at(1);
  arguments.options.inputs.assign(plain.begin() + 2, plain.end());
  return arguments;
}

/// SentencePiece's own Encode, one thread.
Rate measure_sentencepiece(const Arguments& arguments) {
  sentencepiece::SentencePieceProcessor processor;
  if (!processor.Load(arguments.options.tokenizer).ok()) {
    throw std::runtime_error(arguments.options.tokenizer + ": not a SentencePiece model");
  }
  // The first documents of the input.
  const auto documents = gsa::data::test::read_texts(arguments.options.inputs, arguments.bytes);
  const Stopwatch watch;
  size_t tokens = 0;
  for (const auto& document : documents) tokens += processor.EncodeAsIds(document).size() + 1;
  return {static_cast<double>(tokens) / watch.wall(),
          static_cast<double>(tokens) / watch.processor()};
}

/// The whole job.
Rate measure_tokenization(const Arguments& arguments, int threads) {
  const Stopwatch watch;
  auto options = arguments.options;
  options.threads = threads;
  options.output /= std::to_string(threads) + "-threads";
  const auto report = gsa::data::tokenize(options);
  const Rate rate{static_cast<double>(report.tokens) / watch.wall(),
                  static_cast<double>(report.tokens) / watch.processor()};
  fmt::print("{}", describe(report));
  if (report.shards_kept > 0) {
    throw std::runtime_error("the output folder held shards already; name an empty one");
  }
  return rate;
}

double largest_memory_mib() {
  constexpr double kKibibytes = 1024;
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / kKibibytes;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Arguments arguments = parse({argv + 1, argv + argc});
    const Rate alone = measure_sentencepiece(arguments);
    fmt::print("SentencePiece, one thread: {:.0f} tokens/s, {:.0f} by processor time\n", alone.wall,
               alone.processor);
    for (const int threads : arguments.threads) {
      const Rate whole = measure_tokenization(arguments, threads);
      fmt::print(
          "{} threads: {:.0f} tokens/s, {:.1f} times SentencePiece's; {:.0f} by processor time, "
          "{:.1f} times; largest memory {:.0f} MiB\n",
          threads > 0 ? std::to_string(threads) : "all", whole.wall, whole.wall / alone.wall,
          whole.processor, whole.processor / alone.processor, largest_memory_mib());
    }
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "tokenize_bench: {}\n", error.what());
    return 1;
  }
}
