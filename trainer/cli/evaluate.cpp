// gsa evaluate: loss and perplexity of a checkpoint, by source.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <memory>

#include "trainer/checkpoint_layout.h"
#include "trainer/cli/commands.h"
#include "trainer/loader_options.h"
#include "trainer/model/engine.h"
#include "trainer/run_folder.h"
#include "trainer/session.h"
#include "trainer/validation.h"

namespace gsa {
namespace {

struct EvaluateOptions {
  std::string path;
  std::string data;
  int64_t tokens = 0;
  std::string json;
  std::vector<std::string> overrides;
};

constexpr const char* footer =
    "Examples:\n"
    "  gsa evaluate runs/quickstart\n"
    "  mpirun -n 8 gsa evaluate runs/gsa-1.3b --data data/slimpajama/test --json test.json";

std::string json(const ValidationMetrics& metrics, const CheckpointMetadata& metadata) {
  std::string sources;
  for (const auto& [name, loss] : metrics.sources) {
    sources += fmt::format("{}\"{}\":{}", sources.empty() ? "" : ",", name, loss);
  }
  return fmt::format(
      "{{\"step\":{},\"tokens_seen\":{},\"loss\":{},\"perplexity\":{},\"sources\":{{{}}}}}\n",
      metadata.step, metadata.tokens_seen, metrics.loss, std::exp(metrics.loss), sources);
}

int run_evaluate(const EvaluateOptions& options, MpiEnvironment& mpi) {
  const std::filesystem::path checkpoint = find_checkpoint(options.path);
  const CheckpointMetadata metadata = read_metadata(checkpoint);
  const Config config =
      parse_config(metadata.config, checkpoint.string() + " (configuration)", options.overrides);
  Session session = open_session(config, mpi);
  Engine engine(config.model, {.device = session.device,
                               .dtype = session.dtype,
                               .memory = ParameterStore::Memory::weights_only});
  load_weights(checkpoint, engine.parameters(), engine.stream());

  ValidationOptions validation = validation_options(config);
  validation.folder = options.data.empty() ? validation.folder : options.data;
  validation.tokens = options.tokens;
  const ValidationMetrics metrics = Validation(validation, session, engine).run();
  if (session.is_root()) {
    std::printf("%s on %s\n", checkpoint.c_str(), validation.folder.c_str());
    std::printf("  %-24s %8s %12s\n", "source", "loss", "perplexity");
    for (const auto& [name, loss] : metrics.sources) {
      std::printf("  %-24s %8.4f %12.3f\n", name.c_str(), loss, std::exp(loss));
    }
    std::printf("  %-24s %8.4f %12.3f\n", "all", metrics.loss, std::exp(metrics.loss));
    if (!options.json.empty()) {
      write_text_file(options.json, json(metrics, metadata));
    }
  }
  return exit_done;
}

}  // namespace

void add_evaluate(CLI::App& program, Action& action) {
  const auto options = std::make_shared<EvaluateOptions>();
  CLI::App* command =
      program.add_subcommand("evaluate", "Loss and perplexity of a checkpoint, by source");
  command->add_option("checkpoint", options->path, "Checkpoint, or a run: its newest one")
      ->required();
  command->add_option("overrides", options->overrides, "group.key=value, over the run's own");
  command->add_option("--data", options->data, "Shard folder; default: the run's validation split");
  command->add_option("--tokens", options->tokens, "Tokens to read; 0: all");
  command->add_option("--json", options->json, "Also write the result to this file as JSON");
  command->footer(footer);
  command->callback([options, &action] {
    action.ranks = [options](MpiEnvironment& mpi) { return run_evaluate(*options, mpi); };
  });
}

}  // namespace gsa
