// The checkpoints of a run while it trains: taken at step boundaries, written in the background.
//
// A checkpoint costs the run the queueing of its copies: they go to host memory beside the next
// step's work, up to its update, and threads write them from there while training goes on.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <future>
#include <optional>
#include <stdexcept>

#include "trainer/checkpoint/checkpoint_writer.h"
#include "trainer/config/config.h"
#include "trainer/optimizer/sharded_adamw.h"
#include "trainer/run_folder.h"
#include "trainer/run_reporter.h"
#include "trainer/session.h"
#include "trainer/wall_clock.h"

namespace gsa {

// The run's last checkpoint could not be written.
class CheckpointWriteError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class RunCheckpoints {
 public:
  // `saved_step`: of the checkpoint that the run goes on from, or 0. `reporter`: on rank 0, else
  // null. All that is referred to must outlive this.
  RunCheckpoints(const Config& config, Session& session, const ParameterStore& parameters,
                 ShardedAdamW& optimizer, WallClock& clock, RunReporter* reporter,
                 int64_t saved_step);

  // Of the last whole one.
  int64_t saved_step() const { return saved_step_; }

  // Begins to take the host memory for snapshots, which can last for seconds where it is pinned;
  // the first checkpoint waits for it.
  void prepare();

  // Takes a snapshot of the state after metadata.step and has it written; collective. Waits for one
  // that is still being written; does nothing if the step is saved already.
  void begin(const CheckpointMetadata& metadata);
  // Looks, between steps, whether the one under way is whole; collective. One that cannot be
  // written (a full disk) is reported, and training goes on without it.
  void notice();
  // Waits for the one under way, the run's last; collective. Throws CheckpointWriteError.
  void finish_last();

 private:
  using Written = std::optional<std::filesystem::path>;
  void settle(const std::function<Written()>& look);
  void note_written(const Written& written);
  void make_writer();

  CheckpointConfig config_;
  Session& session_;
  std::filesystem::path directory_;
  const ParameterStore& parameters_;
  ShardedAdamW& optimizer_;
  WallClock& clock_;
  RunReporter* reporter_;
  int64_t saved_step_;
  int64_t writing_step_ = 0;  // of the one under way
  std::chrono::steady_clock::time_point writing_since_;
  double stalled_ = 0;  // seconds that the run has stood still for it
  std::future<Buffer> memory_;
  std::optional<CheckpointWriter> writer_;  // from the first checkpoint on
};

}  // namespace gsa
