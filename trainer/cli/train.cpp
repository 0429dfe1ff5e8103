// gsa train: a training run.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <vector>

#include "trainer/cli/commands.h"
#include "trainer/config/error.h"
#include "trainer/metrics/log.h"
#include "trainer/trainer.h"

namespace gsa {
namespace {

struct TrainOptions {
  std::string config;
  std::vector<std::string> overrides;
  std::string resume = "none";
  bool reference = false;
};

constexpr const char* footer =
    "Examples:\n"
    "  mpirun -n 2 gsa train configs/quickstart.yaml\n"
    "  mpirun -n 8 gsa train configs/gsa-1.3b.yaml optimizer.lr=2e-4 --resume auto\n"
    "SIGTERM, SIGINT and SIGUSR1 write a checkpoint at the end of the step and exit with 75, and "
    "so\n"
    "does train.wall_clock_limit; a second signal ends at once. gsa inspect RUN shows what "
    "happened\n"
    "to a run, RUN/heartbeat.json where it is.";

int train(const TrainOptions& options, MpiEnvironment& mpi) {
  if (options.reference) {
    std::fputs(config_reference().c_str(), stdout);
    return exit_done;
  }
  if (options.config.empty()) {
    throw ConfigError("gsa train needs a configuration file, such as configs/quickstart.yaml");
  }
  const Config config = load_config(options.config, options.overrides);
  setup_logging(config.log.level, mpi.rank(), mpi.size());
  Session session = open_session(config, mpi);
  Trainer trainer(config, session, options.resume);
  return trainer.run() == RunEnd::done ? exit_done : exit_stopped;
}

}  // namespace

void add_train(CLI::App& program, Action& action) {
  const auto options = std::make_shared<TrainOptions>();
  CLI::App* command =
      program.add_subcommand("train", "Pretrain a model; under mpirun, on every rank");
  command->add_option("config", options->config, "Configuration (YAML)");
  command->add_option("overrides", options->overrides, "group.key=value, over the configuration");
  command->add_option("--resume", options->resume,
                      "none; auto: from the newest whole checkpoint, if there is one; or the path "
                      "of a checkpoint or run");
  command->add_flag("--help-config", options->reference, "Print every configuration key");
  command->footer(footer);
  command->callback([options, &action] {
    action.ranks = [options](MpiEnvironment& mpi) { return train(*options, mpi); };
  });
}

}  // namespace gsa
