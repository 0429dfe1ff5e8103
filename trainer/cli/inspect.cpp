// gsa inspect: what a folder of shards, a checkpoint or a run holds.
#include "data/inspect.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <vector>

#include "trainer/checkpoint/checkpoint.h"
#include "trainer/cli/commands.h"
#include "trainer/cli/inspect_run.h"
#include "trainer/config/error.h"
#include "trainer/metrics/progress.h"
#include "trainer/run_folder.h"

namespace gsa {
namespace {

struct InspectArguments {
  std::filesystem::path path;
  data::InspectOptions options;
};

constexpr const char* footer =
    "Examples:\n"
    "  gsa inspect data/slimpajama/train\n"
    "  gsa inspect runs/gsa-1.3b\n"
    "  gsa inspect runs/gsa-1.3b/checkpoints/step-00001000";

int inspect_shards(const InspectArguments& arguments) {
  const data::FolderReport report = data::inspect_folder(arguments.path, arguments.options);
  std::fputs(data::describe(report).c_str(), stdout);
  return report.faults.empty() ? exit_done : exit_data;
}

int inspect_checkpoint(const std::filesystem::path& path) {
  const CheckpointMetadata metadata = read_metadata(path);
  verify_checkpoint(path);
  std::printf("checkpoint %s\n  step %ld, %s tokens seen, next sample %ld, seed %ld\n",
              path.c_str(), metadata.step, human_count(double(metadata.tokens_seen)).c_str(),
              metadata.next_sample, metadata.seed);
  std::printf("  written by %d ranks; checksums are right\n", metadata.ranks);
  for (const auto& [name, version] : metadata.versions) {
    std::printf("  %s %s\n", name.c_str(), version.c_str());
  }
  if (!metadata.products.empty()) {
    std::printf("  algorithms of %zu matrix products, for %s\n", metadata.products.size(),
                metadata.product_library.c_str());
  }
  int64_t total = 0;
  for (const CheckpointParameter& parameter : read_parameters(path)) {
    int64_t count = 1;
    std::string shape;
    for (const int64_t dim : parameter.shape) {
      count *= dim;
      shape += (shape.empty() ? "" : " x ") + std::to_string(dim);
    }
    total += count;
    std::printf("  %-48s %s\n", parameter.name.c_str(), shape.c_str());
  }
  std::printf("  %ld parameters\n", total);
  return exit_done;
}

int run_inspect(const InspectArguments& arguments) {
  const std::filesystem::path& path = arguments.path;
  if (!std::filesystem::exists(path)) {
    throw ConfigError(path.string() + ": there is no such file or folder");
  }
  if (std::filesystem::exists(path / "manifest.json")) {
    return inspect_checkpoint(path);
  }
  const RunFolder folder(path);
  if (std::filesystem::exists(folder.metrics())) {
    return inspect_run(folder.path);
  }
  return inspect_shards(arguments);
}

}  // namespace

void add_inspect(CLI::App& program, Action& action) {
  const auto arguments = std::make_shared<InspectArguments>();
  CLI::App* command = program.add_subcommand(
      "inspect", "Show and verify what a shard folder, a checkpoint or a run holds");
  command->add_option("path", arguments->path, "Shard folder, checkpoint or run")->required();
  command->add_flag("--verify,!--no-verify", arguments->options.verify,
                    "Read all shards, compare their checksums and count tokens (the default)");
  command->add_option("--threads", arguments->options.threads, "Threads for that; 0: one a core");
  command->add_option("--samples", arguments->options.samples_per_source,
                      "Pieces of text to show of each source");
  command->footer(footer);
  command->callback(
      [arguments, &action] { action.alone = [arguments] { return run_inspect(*arguments); }; });
}

}  // namespace gsa
