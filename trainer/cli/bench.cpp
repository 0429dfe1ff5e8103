// gsa bench: figures of the op, of a step and of what goes with it, as a table and as JSON.
#include "trainer/cli/bench.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "trainer/cli/commands.h"
#include "trainer/metrics/log.h"

namespace gsa {
namespace {

struct BenchOptions {
  std::string config = "configs/quickstart.yaml";
  std::vector<std::string> overrides;
  std::string json;
  std::string device = "auto";
  std::string compute = "auto";
  BenchOpOptions op;
  BenchStepOptions step;
  BenchGenerateOptions generate;
  BenchCheckpointOptions checkpoint;
};

constexpr const char* footer =
    "Examples:\n"
    "  gsa bench op --json op.json\n"
    "  gsa bench op --batch 1 --length 16384\n"
    "  gsa bench step configs/gsa-1.3b.yaml --json step.json\n"
    "  mpirun -n 4 gsa bench step configs/gsa-1.3b.yaml\n"
    "  gsa bench generate configs/gsa-1.3b.yaml --batch 64 --json generate.json\n"
    "  gsa bench checkpoint configs/gsa-1.3b.yaml --directory /scratch\n"
    "  mpirun -n 4 gsa bench comm configs/gsa-1.3b.yaml\n"
    "Times are medians after warm-up; the machine's own copy and matrix product are measured in "
    "the\n"
    "same call, so that figures of different machines compare.";

int finish(const BenchResult& result, const BenchOptions& options, const Session& session) {
  if (session.is_root()) {
    std::fputs(result.table().c_str(), stdout);
    if (!options.json.empty()) {
      write_text_file(options.json, result.json());
    }
  }
  return exit_done;
}

using Bench = std::function<BenchResult(const Config&, Session&)>;

int run_bench(const BenchOptions& options, MpiEnvironment& mpi, const Bench& bench) {
  const Config config = load_config(options.config, options.overrides);
  setup_logging(config.log.level, mpi.rank(), mpi.size());
  Session session = open_session(config, mpi);
  return finish(bench(config, session), options, session);
}

int run_bench_op(const BenchOptions& options, MpiEnvironment& mpi) {
  Config config;
  config.precision.compute = options.compute;
  config.distributed.device = options.device;
  Session session = open_session(config, mpi);
  return finish(bench_op(options.op, session), options, session);
}

}  // namespace

void add_bench(CLI::App& program, Action& action) {
  const auto options = std::make_shared<BenchOptions>();
  CLI::App* command = program.add_subcommand(
      "bench", "Measure the op, a step, generation, checkpoints or communication");
  command->require_subcommand(1);
  command->footer(footer);
  const auto add = [&](const char* name, const char* what) {
    CLI::App* sub = command->add_subcommand(name, what);
    sub->add_option("--json", options->json, "Also write the figures to this file as JSON");
    return sub;
  };
  const auto add_config = [&](CLI::App* sub) {
    sub->add_option("config", options->config, "Configuration (YAML)");
    sub->add_option("overrides", options->overrides, "group.key=value, over the configuration");
  };

  CLI::App* op = add("op", "The GSA op alone, forward and backward");
  op->add_option("--batch", options->op.batch, "Sequences; 0: by device");
  op->add_option("--length", options->op.length, "Tokens a sequence; 0: by device");
  op->add_option("--heads", options->op.heads, "Query heads");
  op->add_option("--kv-heads", options->op.kv_heads, "Key/value heads; 0: as many");
  op->add_option("--head-dim", options->op.head_dim, "K = V; 0: by device");
  op->add_option("--slots", options->op.slots, "M; 0: by device");
  op->add_flag("--projected", options->op.projected,
               "q, k, v and the gate as a layer has them, before their activations");
  op->add_option("--device", options->device, "auto, cpu or cuda");
  op->add_option("--compute", options->compute, "auto, bf16 or float32");
  op->callback([options, &action] {
    action.ranks = [options](MpiEnvironment& mpi) { return run_bench_op(*options, mpi); };
  });

  CLI::App* step = add("step", "A whole optimizer step on random tokens, by phase");
  add_config(step);
  step->add_option("--accumulation", options->step.accumulation, "Micro-batches a step");
  step->add_option("--steps", options->step.steps, "Steps to time; 0: about ten seconds");
  step->callback([options, &action] {
    action.ranks = [options](MpiEnvironment& mpi) {
      return run_bench(*options, mpi, [&](const Config& config, Session& session) {
        return bench_step(config, options->step, session);
      });
    };
  });

  CLI::App* generate = add("generate", "Text from random weights, a token at a time");
  add_config(generate);
  generate->add_option("--batch", options->generate.batch, "Texts side by side")
      ->check(CLI::PositiveNumber);
  generate->add_option("--prompt", options->generate.prompt, "Tokens of each prompt")
      ->check(CLI::PositiveNumber);
  generate->add_option("--tokens", options->generate.tokens, "Tokens to time, of each text")
      ->check(CLI::PositiveNumber);
  generate->add_option("--temperature", options->generate.sampling.temperature,
                       "0: always the most probable token");
  generate->add_option("--top-k", options->generate.sampling.top_k,
                       "Only the k most probable; 0: all");
  generate->add_option("--top-p", options->generate.sampling.top_p,
                       "Only the most probable ones with this probability together");
  generate->add_flag("--reference", options->generate.reference,
                     "Steps as the model's forward pass in the recurrent form");
  generate->callback([options, &action] {
    action.ranks = [options](MpiEnvironment& mpi) {
      return run_bench(*options, mpi, [&](const Config& config, Session& session) {
        return bench_generate(config, options->generate, session);
      });
    };
  });

  CLI::App* checkpoint =
      add("checkpoint", "What a checkpoint costs the steps behind which it is written");
  add_config(checkpoint);
  checkpoint->add_option("--accumulation", options->checkpoint.accumulation,
                         "Micro-batches a step");
  checkpoint->add_option("--directory", options->checkpoint.directory,
                         "Where to write; by default run.directory of the configuration");
  checkpoint->callback([options, &action] {
    action.ranks = [options](MpiEnvironment& mpi) {
      return run_bench(*options, mpi, [&](const Config& config, Session& session) {
        return bench_checkpoint(config, options->checkpoint, session);
      });
    };
  });

  CLI::App* comm = add("comm", "The collectives of a step");
  add_config(comm);
  comm->callback([options, &action] {
    action.ranks = [options](MpiEnvironment& mpi) { return run_bench(*options, mpi, bench_comm); };
  });
}

}  // namespace gsa
