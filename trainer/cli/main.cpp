// The program `gsa`: reads the command line, runs one command, and turns errors into messages and
// exit codes. Nowhere else are exceptions caught for good.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "data/error.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/cli/commands.h"
#include "trainer/config/error.h"
#include "trainer/distributed/communicator.h"
#include "trainer/metrics/log.h"
#include "trainer/versions.h"

namespace gsa {
namespace {

constexpr const char* footer =
    "Exit codes: 0 done, 2 bad usage or configuration, 3 bad data, 4 failed while running,\n"
    "75 stopped by a signal after a checkpoint (start again with --resume auto).";

int exit_code_of(const std::exception& error) {
  if (dynamic_cast<const ConfigError*>(&error) != nullptr) {
    return exit_usage;
  }
  if (dynamic_cast<const data::DataError*>(&error) != nullptr ||
      dynamic_cast<const CheckpointError*>(&error) != nullptr) {
    return exit_data;
  }
  return exit_failed;
}

// Runs a command on all ranks. A rank that fails says so and ends the others. Where all fail alike,
// one message is enough: ranks other than 0 give it the time to be that one. Where others are lost,
// each has its own message: all get the time for it before one ends them.
int run_on_ranks(int argc, char** argv, const Action& action) {
  constexpr unsigned head_start_seconds = 1;
  MpiEnvironment mpi(argc, argv);
  try {
    return action.ranks(mpi);
  } catch (const std::exception& error) {
    const bool lost_others = dynamic_cast<const LostRanksError*>(&error) != nullptr;
    if (mpi.rank() != 0 && !lost_others) {
      sleep(head_start_seconds);
    }
    log_error(mpi.size() > 1 ? fmt::format("rank {}: {}", mpi.rank(), error.what())
                             : std::string(error.what()));
    if (lost_others) {
      sleep(head_start_seconds);
    }
    if (mpi.size() > 1) {
      mpi.abort(exit_code_of(error));
    }
    return exit_code_of(error);
  }
}

std::string version_text() {
  std::string text;
  for (const auto& [name, version] : library_versions()) {
    text += fmt::format("{} {}\n", name, version);
  }
  text.pop_back();
  return text;
}

int run(int argc, char** argv) {
  CLI::App program("gsa: pretraining of Gated Slot Attention language models");
  program.require_subcommand(1);
  program.footer(footer);
  program.set_version_flag("--version", version_text());
  program.option_defaults()->always_capture_default();
  Action action;
  add_train(program, action);
  add_plan(program, action);
  add_tokenize(program, action);
  add_inspect(program, action);
  add_evaluate(program, action);
  add_generate(program, action);
  add_bench(program, action);
  try {
    program.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return program.exit(error) == 0 ? exit_done : exit_usage;
  }
  if (action.ranks) {
    return run_on_ranks(argc, argv, action);
  }
  try {
    return action.alone();
  } catch (const std::exception& error) {
    log_error(error.what());
    return exit_code_of(error);
  }
}

}  // namespace
}  // namespace gsa

int main(int argc, char** argv) {
  try {
    return gsa::run(argc, argv);
  } catch (const std::exception& error) {
    std::fputs(error.what(), stderr);
    std::fputs("\n", stderr);
    return gsa::exit_failed;
  }
}
