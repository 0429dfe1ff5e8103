// Tokens a second of the whole tokenization against SentencePiece alone on one thread, on the same
// text, in one run:
//
//     tokenize_bench MODEL OUTPUT_FOLDER INPUT... [--threads N] [--megabytes M]
//
// Both are given by processor time too, which other load on the machine hardly changes.
//
// SentencePiece is measured on the first M megabytes of text (20 unless given); the tokenization
// runs over all of the input, reading, decompressing, parsing and writing included. OUTPUT_FOLDER
// keeps the shards.

#include <fmt/format.h>
#include <sentencepiece_processor.h>

#include <chrono>
#include <ctime>
#include <exception>
#include <string>
#include <string_view>
#include <vector>

#include "data/block_reader.h"
#include "data/document_parser.h"
#include "data/tokenize.h"
#include "data/tokenize_plan.h"

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
  size_t bytes = size_t{20} << 20;
};

Arguments parse(const std::vector<std::string>& words) {
  constexpr int kMegabyteBits = 20;
  Arguments arguments;
  std::vector<std::string> plain;
  for (size_t i = 0; i < words.size(); ++i) {
    if (words[i] == "--threads") {
      arguments.options.threads = std::stoi(words.at(++i));
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

/// The first documents of the input, `bytes` of text.
std::vector<std::string> documents_of(const Arguments& arguments) {
  std::vector<std::string> documents;
  size_t total = 0;
  gsa::data::LargeBlocks large;
  gsa::data::DocumentParser parser;
  const auto& options = arguments.options;
  for (const auto& plan : gsa::data::plan_shards(options.inputs, options.input_bytes_per_shard)) {
    gsa::data::BlockReader reader(plan.inputs, large);
    gsa::data::Block block;
    while (total < arguments.bytes && reader.next(block)) {
      auto text = block.text();
      while (!text.empty()) {
        const size_t newline = text.find('\n');
        const auto parsed = parser.parse(text.substr(0, newline));
        text.remove_prefix(newline == std::string_view::npos ? text.size() : newline + 1);
        documents.emplace_back(parsed.text);
        total += parsed.text.size();
      }
    }
  }
  return documents;
}

/// SentencePiece's own Encode, one thread.
Rate measure_sentencepiece(const Arguments& arguments) {
  sentencepiece::SentencePieceProcessor processor;
  if (!processor.Load(arguments.options.tokenizer).ok()) {
    throw std::runtime_error(arguments.options.tokenizer + ": not a SentencePiece model");
  }
  const auto documents = documents_of(arguments);
  const Stopwatch watch;
  size_t tokens = 0;
  for (const auto& document : documents) tokens += processor.EncodeAsIds(document).size() + 1;
  return {static_cast<double>(tokens) / watch.wall(),
          static_cast<double>(tokens) / watch.processor()};
}

/// The whole job.
Rate measure_tokenization(const Arguments& arguments) {
  const Stopwatch watch;
  const auto report = gsa::data::tokenize(arguments.options);
  const Rate rate{static_cast<double>(report.tokens) / watch.wall(),
                  static_cast<double>(report.tokens) / watch.processor()};
  fmt::print("{}", describe(report));
  if (report.shards_kept > 0) {
    throw std::runtime_error("the output folder held shards already; name an empty one");
  }
  return rate;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Arguments arguments = parse({argv + 1, argv + argc});
    const Rate alone = measure_sentencepiece(arguments);
    const Rate whole = measure_tokenization(arguments);
    fmt::print("tokens a second of            wall clock   processor time\n");
    fmt::print("SentencePiece, one thread   {:12.0f} {:16.0f}\n", alone.wall, alone.processor);
    fmt::print("tokenization                {:12.0f} {:16.0f}\n", whole.wall, whole.processor);
    fmt::print("times as fast               {:12.2f} {:16.2f}\n", whole.wall / alone.wall,
               whole.processor / alone.processor);
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "tokenize_bench: {}\n", error.what());
    return 1;
  }
}
