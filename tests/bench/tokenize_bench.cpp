// Tokens a second of the whole tokenization against SentencePiece alone on one thread, on the same
// text, in one run:
//
//     tokenize_bench MODEL OUTPUT_FOLDER INPUT... [--threads N] [--megabytes M]
//
// SentencePiece is measured on the first M megabytes of text (20 unless given); the tokenization
// runs over all of the input, reading, decompressing, parsing and writing included. OUTPUT_FOLDER
// keeps the shards.

#include <fmt/format.h>
#include <sentencepiece_processor.h>

#include <chrono>
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

/// Tokens a second of SentencePiece's own Encode, one thread.
double measure_sentencepiece(const Arguments& arguments) {
  sentencepiece::SentencePieceProcessor processor;
  if (!processor.Load(arguments.options.tokenizer).ok()) {
    throw std::runtime_error(arguments.options.tokenizer + ": not a SentencePiece model");
  }
  const auto documents = documents_of(arguments);
  const auto start = Clock::now();
  size_t tokens = 0;
  for (const auto& document : documents) tokens += processor.EncodeAsIds(document).size() + 1;
  return static_cast<double>(tokens) / std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

int main(int argc, char** argv) {
  try {
    Arguments arguments = parse({argv + 1, argv + argc});
    const double alone = measure_sentencepiece(arguments);
    double rate = 0;
    arguments.options.progress = [&rate](const gsa::data::TokenizeProgress& progress) {
      rate = progress.tokens_per_second;
      fmt::print("{}\n", describe(progress));
    };
    const auto report = gsa::data::tokenize(arguments.options);
    fmt::print("{}", describe(report));
    fmt::print("SentencePiece alone, one thread: {:.0f} tokens/s\n", alone);
    fmt::print("tokenization, {} threads (0: all): {:.0f} tokens/s, {:.2f} times that\n",
               arguments.options.threads, rate, rate / alone);
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "tokenize_bench: {}\n", error.what());
    return 1;
  }
}
