// gsa tokenize: text to token shards.
#include "data/tokenize.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <vector>

#include "data/error.h"
#include "data/megatron.h"
#include "trainer/cli/commands.h"
#include "trainer/config/error.h"

namespace gsa {
namespace {

constexpr const char* megatron_format = "megatron";

struct TokenizeArguments {
  data::TokenizeOptions options;
  std::string part = "1/1";
  double shard_mib = 64;
  std::string format = "shards";
};

constexpr const char* footer =
    "Example:\n"
    "  gsa tokenize SlimPajama-627B/train --output data/slimpajama/train --tokenizer "
    "mistral.model\n"
    "Input is SlimPajama's layout: chunk*/example_*.jsonl.zst (.jsonl and .jsonl.gz too), an "
    "object\n"
    "a line with `text` and `meta.redpajama_set_name`. Stopped at any moment, it goes on where it\n"
    "was when it is started again; several machines share the work with --part 1/16, 2/16, ...\n"
    "With --to megatron the output folder also gets text_document.bin and text_document.idx, the\n"
    "same tokens in Megatron-LM's indexed format, as soon as all parts' shards are there.";

void read_part(const std::string& text, data::TokenizeOptions& options) {
  int length = 0;
  if (std::sscanf(text.c_str(), "%d/%d%n", &options.part, &options.parts, &length) != 2 ||
      static_cast<size_t>(length) != text.size() || options.part < 1 ||
      options.part > options.parts) {
    throw ConfigError("--part is I/N with 1 <= I <= N, such as 3/16 (got " + text + ")");
  }
}

// Writes the folder's tokens in Megatron-LM's format too, once the shards of all parts are there.
void write_megatron_files(const std::filesystem::path& folder, bool complete) {
  if (!complete) {
    std::printf("%s.* will be written by the run that completes the folder\n",
                data::kMegatronName.data());
    return;
  }
  const std::filesystem::path prefix = folder / data::kMegatronName;
  data::write_megatron(folder, prefix);
  std::printf("%s.bin and .idx written\n", prefix.c_str());
}

int run_tokenize(TokenizeArguments arguments) {
  data::TokenizeOptions& options = arguments.options;
  read_part(arguments.part, options);
  options.input_bytes_per_shard = static_cast<int64_t>(arguments.shard_mib * 1024 * 1024);
  const bool live = isatty(fileno(stderr)) != 0;
  if (!live) {
    options.progress_interval = std::chrono::seconds(10);
  }
  options.progress = [live](const data::TokenizeProgress& progress) {
    std::fprintf(stderr, live ? "\r\033[K%s" : "%s\n", data::describe(progress).c_str());
  };
  const data::TokenizeReport report = data::tokenize(options);
  std::fputs(live ? "\r\033[K" : "", stderr);
  std::fputs(data::describe(report).c_str(), stdout);
  if (arguments.format == megatron_format) {
    write_megatron_files(options.output, report.complete);
  }
  return report.past_threshold ? exit_data : exit_done;
}

}  // namespace

void add_tokenize(CLI::App& program, Action& action) {
  const auto arguments = std::make_shared<TokenizeArguments>();
  data::TokenizeOptions& options = arguments->options;
  CLI::App* command = program.add_subcommand("tokenize", "Turn text into token shards");
  command->add_option("inputs", options.inputs, "Folders or files of text")->required();
  command->add_option("-o,--output", options.output, "Folder of the shards")->required();
  command->add_option("-t,--tokenizer", options.tokenizer,
                      "Path of a SentencePiece model, or: bytes");
  command->add_option("--threads", options.threads, "Threads; 0: one a core");
  command->add_option("--part", arguments->part, "This machine's share, I/N");
  command->add_option("--shard-mib", arguments->shard_mib, "Input, in MiB, that makes a shard")
      ->check(CLI::PositiveNumber);
  command->add_option("--loss-threshold", options.loss_threshold,
                      "Share of documents that may be unusable before the exit code is 3");
  command
      ->add_option("--to", arguments->format,
                   "shards, or megatron: Megatron-LM's indexed files beside the shards")
      ->check(CLI::IsMember({"shards", megatron_format}));
  command->add_flag("--strict", options.strict, "Stop at the first document that is unusable");
  command->footer(footer);
  command->callback(
      [arguments, &action] { action.alone = [arguments] { return run_tokenize(*arguments); }; });
}

}  // namespace gsa
