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
#include "trainer/checkpoint/checkpoint_writer.h"
#include "trainer/config/config.h"
#include "trainer/device_batch.h"
#include "trainer/metrics/metrics.h"
#include "trainer/metrics/progress.h"
#include "trainer/model/engine.h"
#include "trainer/optimizer/sharded_adamw.h"
#include "trainer/run_folder.h"
#include "trainer/session.h"
#include "trainer/signals.h"
#include "trainer/validation.h"

namespace gsa {

// The run's last checkpoint could not be written.
class CheckpointWriteError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// How a run ended.
enum class RunEnd : uint8_t { done, stopped };

class Trainer {
 public:
  // Builds the model and, with a checkpoint, goes on from it; collective. `resume`: none | auto |
  // a path. Throws ConfigError, DataError, CheckpointError, OutOfMemory.
  Trainer(const Config& config, Session& session, const std::string& resume);

  // Trains to the token budget, or until a signal or `train.stop_after_steps` stops it; either way
  // the last step has a checkpoint.
  RunEnd run();

 private:
  struct Progress {
    int64_t step = 0;
    int64_t tokens_seen = 0;
    int64_t next_sample = 0;
  };
  struct StepResult {
    double loss = 0;
    double gradient_norm = 0;
    bool finite = true;
    bool stop_requested = false;  // on any rank
  };

  void start(const std::string& resume);
  void load(const std::filesystem::path& checkpoint);
  void describe() const;
  StepMetrics step();
  // Forward and backward of one micro-batch: its losses and gradients are added to the step's.
  void micro_batch(const data::Batch& batch, const BucketHooks* hooks);
  const BucketHooks* hooks_of(int64_t micro_batch) const;
  bool validation_is_due() const;
  // Sums over the ranks, the update, and what both say.
  StepResult finish_step(double rate);
  void judge(const StepResult& result);
  void report(const StepMetrics& metrics);
  // Takes a snapshot and has it written while training goes on.
  void begin_checkpoint();
  // Looks, between steps, whether the checkpoint under way is whole. One that cannot be written (a
  // full disk) is reported, and training goes on without it.
  void notice_checkpoint();
  void settle(const std::function<std::optional<std::filesystem::path>()>& look);
  // The run's last checkpoint must succeed; throws CheckpointWriteError.
  void finish_last_checkpoint();
  void note_written(const std::optional<std::filesystem::path>& written);
  StepTiming timing(double seconds, double waited) const;
  double memory_gib() const;

  Config config_;
  Session& session_;
  RunFolder folder_;
  BatchPlan batch_plan_;
  StopSignals signals_;
  Engine engine_;
  ShardedAdamW optimizer_;
  std::optional<Validation> validation_;
  std::optional<data::Loader> loader_;
  DeviceBatch batch_;
  BucketHooks first_hooks_;  // of the first micro-batch of a step: weights may still be under way
  BucketHooks last_hooks_;   // of the last one: gradients are complete
  BucketHooks only_hooks_;   // of a step's only one
  Buffer loss_memory_;
  Buffer total_memory_;
  Tensor losses_;
  Tensor totals_;  // [3] float64: loss sum, labels that count, ranks that want to stop
  Buffer host_memory_;
  double model_flops_ = 0;  // of a micro-batch
  Progress progress_;
  int64_t skipped_in_a_row_ = 0;
  int64_t writing_step_ = 0;  // of the checkpoint under way
  int64_t saved_step_ = 0;    // of the last whole one
  bool stop_ = false;
  std::optional<CheckpointWriter> writer_;  // from the first checkpoint on: it holds host memory
  std::unique_ptr<MetricsWriter> metrics_;
  std::unique_ptr<ProgressReporter> reporter_;
};

}  // namespace gsa
