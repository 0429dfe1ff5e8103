// A training run: from the configuration to its last checkpoint.
//
// One step is `accumulation` micro-batches forward and backward, the reduction of gradients by
// bucket behind the last backward, and the update (trainer/optimizer/sharded_adamw.h). Nothing of a
// step depends on anything but the configuration, the data and the number of ranks: the same run
// gives the same bits.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

#include "data/loader.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/config/config.h"
#include "trainer/device_batch.h"
#include "trainer/metrics/metrics.h"
#include "trainer/model/engine.h"
#include "trainer/optimizer/sharded_adamw.h"
#include "trainer/product_choices.h"
#include "trainer/run_checkpoints.h"
#include "trainer/run_folder.h"
#include "trainer/session.h"
#include "trainer/signals.h"
#include "trainer/spike_guard.h"
#include "trainer/step_hooks.h"
#include "trainer/validation.h"
#include "trainer/weight_check.h"

namespace gsa {

// How a run ended.
enum class RunEnd : uint8_t { done, stopped };

class Trainer {
 public:
  // Builds the model and, with a checkpoint, goes on from it; collective. `resume`: none | auto |
  // a path. Throws ConfigError, DataError, CheckpointError, OutOfMemory.
  Trainer(const Config& config, Session& session, const std::string& resume);

  // Trains to the token budget, or until a signal, `train.wall_clock_limit` or
  // `train.stop_after_steps` stops it; either way a checkpoint holds all that was learnt. Throws
  // std::runtime_error after `train.max_skipped_steps` skipped steps in a row, with a checkpoint
  // from before them.
  RunEnd run();

 private:
  struct Progress {
    int64_t step = 0;
    int64_t tokens_seen = 0;
    int64_t next_sample = 0;
  };
  // The checkpoint that the run goes on from, and what that remembers; no path for a fresh start.
  struct StartingPoint {
    std::filesystem::path checkpoint;
    CheckpointMetadata metadata;
  };
  struct StepResult {
    double loss = 0;
    double gradient_norm = 0;
    double loss_limit = 0;     // that it was held to
    bool applied = true;       // the update; else the step is skipped
    bool signalled = false;    // on any rank
    bool out_of_time = false;  // on any rank
  };

  // The same on every rank; collective. Makes the run's folder.
  StartingPoint find_start(const std::string& resume) const;
  void start(const StartingPoint& from);
  void load(const StartingPoint& from);
  void describe() const;
  StepMetrics step();
  // Forward and backward of one micro-batch: its losses and gradients are added to the step's.
  void micro_batch(const data::Batch& batch, const BucketHooks* hooks);
  bool validation_is_due() const;
  // Sums over the ranks, the update, and what both say.
  StepResult finish_step(double rate);
  void judge(const StepResult& result);
  // Asks the run to stop after this step.
  void stop(const std::string& reason);
  // Ends a run whose every step is skipped.
  [[noreturn]] void give_up();
  // Skipped steps since the last one that was applied are left out: whoever resumes does them
  // again, and a checkpoint from before them is there when nothing else follows.
  void begin_checkpoint();
  StepTiming timing(double seconds, double waited) const;
  double memory_gib() const;

  Config config_;
  Session& session_;
  RunFolder folder_;
  BatchPlan batch_plan_;
  StopSignals signals_;
  Engine engine_;
  ShardedAdamW optimizer_;
  StepHooks hooks_;
  std::optional<Validation> validation_;
  std::optional<data::Loader> loader_;
  DeviceBatch batch_;
  SpikeGuard spikes_;
  std::optional<WallClock> clock_;
  std::optional<WeightCheck> weight_check_;
  Buffer loss_memory_;
  Buffer total_memory_;
  Tensor losses_;
  // [4] float64: loss sum, labels that count, ranks that were signalled, that are out of time
  Tensor totals_;
  Buffer host_memory_;
  RunProducts products_;
  double model_flops_ = 0;  // of a micro-batch
  Progress progress_;
  Progress applied_;  // after the last step that was applied: what the weights are of
  int64_t skipped_in_a_row_ = 0;
  std::string stop_reason_;                // once the run is to stop
  std::unique_ptr<RunReporter> reporter_;  // on rank 0
  std::optional<RunCheckpoints> checkpoints_;
};

}  // namespace gsa
