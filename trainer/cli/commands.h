// The commands of `gsa`. Each file of this folder adds one to the program.
#pragma once

#include <functional>
#include <string>

namespace CLI {
class App;
}

namespace gsa {

class MpiEnvironment;

// Exit codes of the program.
enum ExitCode : int {
  exit_done = 0,
  exit_usage = 2,    // bad usage or configuration
  exit_data = 3,     // bad data: shards, text, checkpoints
  exit_failed = 4,   // failed while running
  exit_stopped = 75  // stopped by a signal after a checkpoint; start again with --resume auto
};

// What the command line asked for: set by the command that was named. `ranks` commands run under
// mpirun, on every rank.
struct Action {
  std::function<int()> alone;
  std::function<int(MpiEnvironment&)> ranks;
};

void add_train(CLI::App& program, Action& action);
void add_plan(CLI::App& program, Action& action);
void add_tokenize(CLI::App& program, Action& action);
void add_inspect(CLI::App& program, Action& action);
void add_evaluate(CLI::App& program, Action& action);
void add_generate(CLI::App& program, Action& action);
void add_bench(CLI::App& program, Action& action);

// Writes `text` to `path`; throws std::runtime_error with the path and the reason.
void write_text_file(const std::string& path, const std::string& text);

}  // namespace gsa
