// gsa generate: text from a checkpoint, in the recurrent form.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <memory>

#include "data/index.h"
#include "data/token_text.h"
#include "data/tokenizer.h"
#include "trainer/checkpoint_layout.h"
#include "trainer/cli/commands.h"
#include "trainer/config/error.h"
#include "trainer/metrics/log.h"
#include "trainer/model/generator.h"
#include "trainer/run_folder.h"
#include "trainer/session.h"

namespace gsa {
namespace {

struct GenerateOptions {
  std::string path;
  std::string prompt;
  std::string tokenizer;
  int64_t tokens = 200;
  kernels::SamplingOptions sampling;
  std::vector<std::string> overrides;
};

constexpr const char* footer =
    "Example:\n"
    "  gsa generate runs/quickstart --prompt \"The function\" --tokens 100 --temperature 0.8 "
    "--top-p "
    "0.95";

std::unique_ptr<data::Tokenizer> open_tokenizer(const GenerateOptions& options,
                                                const Config& config) {
  if (!options.tokenizer.empty()) {
    return data::make_tokenizer(options.tokenizer);
  }
  if (config.data.train.empty()) {
    throw ConfigError(
        "the run names no training data to take the tokenizer from: give --tokenizer");
  }
  const std::filesystem::path folder = config.data.train.front().first;
  return data::tokenizer_of_folder(folder, data::read_index(folder).tokenizer);
}

void print(const std::string& text) {
  if (!text.empty()) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  }
}

int run_generate(const GenerateOptions& options) {
  const std::filesystem::path checkpoint = find_checkpoint(options.path);
  const Config config = parse_config(read_metadata(checkpoint).config,
                                     checkpoint.string() + " (configuration)", options.overrides);
  const std::unique_ptr<data::Tokenizer> tokenizer = open_tokenizer(options, config);
  if (tokenizer->vocabulary_size() > config.model.vocabulary) {
    throw ConfigError(
        fmt::format("the tokenizer {} has {} tokens, the model {}: give the model's own "
                    "with --tokenizer",
                    tokenizer->name(), tokenizer->vocabulary_size(), config.model.vocabulary));
  }
  const Session session = open_single_session(config.distributed, config.precision);
  Engine engine(config.model, {.device = session.device,
                               .dtype = session.dtype,
                               .memory = ParameterStore::Memory::weights_only});
  load_weights(checkpoint, engine.parameters(), engine.stream());

  // Training text has an end-of-sequence token before each document: so has the prompt.
  std::vector<int32_t> prompt{tokenizer->end_of_sequence()};
  tokenizer->encode(options.prompt, prompt);
  Generator generator(engine,
                      {.sampling = options.sampling, .choices = tokenizer->vocabulary_size()});
  data::TokenText text(*tokenizer);
  for (size_t i = 1; i < prompt.size(); ++i) {
    print(text.add(prompt[i]));
  }
  const auto begin = std::chrono::steady_clock::now();
  int64_t made = 0;
  if (options.tokens > 0) {
    generator.start({prompt});
  }
  while (made < options.tokens) {
    const int32_t token = generator.next().front();
    ++made;
    if (token == tokenizer->end_of_sequence()) {
      break;
    }
    print(text.add(token));
  }
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  std::printf("\n");
  std::fflush(stdout);  // the text before the message about it
  log_info(fmt::format("{} tokens in {:.2f} s, {:.1f} tokens/s; state {:.1f} KiB", made, seconds,
                       double(made) / seconds, double(generator.state_bytes()) / 1024.0));
  return exit_done;
}

}  // namespace

void add_generate(CLI::App& program, Action& action) {
  const auto options = std::make_shared<GenerateOptions>();
  CLI::App* command = program.add_subcommand("generate", "Text from a checkpoint");
  command->add_option("checkpoint", options->path, "Checkpoint, or a run: its newest one")
      ->required();
  command->add_option("overrides", options->overrides, "group.key=value, over the run's own");
  command->add_option("--prompt", options->prompt, "Text to go on from");
  command->add_option("--tokenizer", options->tokenizer,
                      "SentencePiece model or: bytes; default: that of the run's training data");
  command->add_option("--tokens", options->tokens, "Tokens to write at most")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--temperature", options->sampling.temperature,
                      "0: always the most probable token");
  command->add_option("--top-k", options->sampling.top_k, "Only the k most probable; 0: all");
  command->add_option("--top-p", options->sampling.top_p,
                      "Only the most probable ones with this probability together");
  command->add_option("--seed", options->sampling.seed, "Of the choice of tokens");
  command->footer(footer);
  command->callback(
      [options, &action] { action.alone = [options] { return run_generate(*options); }; });
}

}  // namespace gsa
