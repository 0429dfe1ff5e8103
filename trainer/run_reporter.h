// What a run tells the world, from rank 0: lines on the terminal, metrics.jsonl, events.jsonl and
// heartbeat.json. A disk that is full does not end the run: what could not be written is kept and
// written later, and a warning says so.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "trainer/metrics/events.h"
#include "trainer/metrics/metrics.h"
#include "trainer/metrics/progress.h"
#include "trainer/run_folder.h"

namespace gsa {

class RunReporter {
 public:
  // For a run that goes on after `step`, with `log_every` steps between lines on the terminal.
  // Throws std::system_error if the files cannot be opened.
  RunReporter(const RunFolder& folder, int64_t step, int64_t total_steps, int64_t log_every);
  // An end that nobody announced is a failure: the reason is not known here, the heartbeat says so.
  ~RunReporter();
  RunReporter(const RunReporter&) = delete;
  RunReporter& operator=(const RunReporter&) = delete;

  // `checkpoint`: the one that the run goes on from, or empty.
  void started(int64_t ranks, const std::string& checkpoint);
  // The first step of this start is done, so long after the process began.
  void first_step(int64_t step, double seconds);
  void step(const StepMetrics& metrics);
  // The step that was just done changed nothing, for this reason.
  void skipped(int64_t step, const std::string& reason);
  void doing(const std::string& state, int64_t step) { heartbeat_.beat(state, step); }
  // `seconds` from its beginning, of which the run stood still for `stalled`.
  void checkpoint_written(int64_t step, const std::string& folder, double seconds, double stalled);
  void checkpoint_failed(int64_t step, const std::string& what, int64_t next_try_within);
  // `state`: done, stopped or failed.
  void ended(const std::string& state, int64_t step, const std::string& reason);

  // Puts the metrics on the disk, before a checkpoint that they belong to.
  void sync();

 private:
  template <typename Write>
  void without_fail(const Write& write);
  void event(RunEvent event);

  MetricsWriter metrics_;
  EventLog events_;
  Heartbeat heartbeat_;
  ProgressReporter progress_;
  int64_t step_;
  bool warned_ = false;  // that files cannot be written, since they last could
  bool ended_ = false;
};

}  // namespace gsa
