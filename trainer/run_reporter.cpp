#include "trainer/run_reporter.h"

#include <fmt/format.h>
#include <unistd.h>

#include <iostream>
#include <system_error>

#include "trainer/metrics/log.h"

namespace gsa {
namespace {

// Of all files of a folder; 0 if it cannot be read (somebody has removed it again).
int64_t bytes_in(const std::filesystem::path& folder) {
  std::error_code error;
  int64_t bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const uintmax_t size = entry.file_size(error);
    bytes += error ? 0 : static_cast<int64_t>(size);
  }
  return bytes;
}

}  // namespace

RunReporter::RunReporter(const RunFolder& folder, int64_t step, int64_t total_steps,
                         int64_t log_every)
    : metrics_(folder.metrics(), step),
      events_(folder.events()),
      heartbeat_(folder.heartbeat()),
      progress_(std::cout, stdout_is_terminal(), total_steps, log_every),
      step_(step) {
  heartbeat_.beat("starting", step);
}

RunReporter::~RunReporter() {
  if (!ended_) {
    ended("failed", step_, "an error, see the messages of the run");
  }
}

template <typename Write>
void RunReporter::without_fail(const Write& write) {
  try {
    write();
    warned_ = false;
  } catch (const std::system_error& error) {
    if (!warned_) {
      log_warning(fmt::format(
          "{}; training goes on, lines are kept until they can be written: free space there",
          error.what()));
    }
    warned_ = true;
  }
}

void RunReporter::event(RunEvent event) {
  without_fail([&] { events_.write(std::move(event)); });
}

void RunReporter::started(int64_t ranks, const std::string& checkpoint) {
  event({.kind = "start",
         .step = step_,
         .reason = checkpoint,
         .ranks = ranks,
         .host = host_name(),
         .pid = getpid()});
}

void RunReporter::first_step(int64_t step, double seconds) {
  event({.kind = "first_step", .step = step, .seconds = seconds});
}

void RunReporter::step(const StepMetrics& metrics) {
  step_ = metrics.step;
  without_fail([&] { metrics_.write(metrics); });
  progress_.step(metrics);
  heartbeat_.beat("training", step_);
}

void RunReporter::skipped(int64_t step, const std::string& reason) {
  log_warning(fmt::format("step {} was skipped: {}", step, reason));
  event({.kind = "skip", .step = step, .reason = reason});
}

void RunReporter::checkpoint_written(int64_t step, const std::string& folder, double seconds,
                                     double stalled) {
  log_info(fmt::format("checkpoint {}", folder));
  event({.kind = "checkpoint",
         .step = step,
         .seconds = seconds,
         .stalled = stalled,
         .bytes = bytes_in(folder)});
}

void RunReporter::checkpoint_failed(int64_t step, const std::string& what,
                                    int64_t next_try_within) {
  log_error(fmt::format("{}; training goes on, the next try is in at most {} steps", what,
                        next_try_within));
  event({.kind = "checkpoint_failed", .step = step, .reason = what});
}

void RunReporter::ended(const std::string& state, int64_t step, const std::string& reason) {
  progress_.finish();
  event({.kind = "stop", .step = step, .reason = reason});
  heartbeat_.beat(state, step);
  ended_ = true;
}

void RunReporter::sync() {
  without_fail([&] { metrics_.sync(); });
}

}  // namespace gsa
