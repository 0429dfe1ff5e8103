#include "trainer/run_checkpoints.h"

#include "trainer/checkpoint_layout.h"

namespace gsa {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Adds the time of its life to a sum.
class Stopwatch {
 public:
  explicit Stopwatch(double& sum) : sum_(sum), begin_(Clock::now()) {}
  ~Stopwatch() { sum_ += seconds_since(begin_); }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  double& sum_;
  Clock::time_point begin_;
};

}  // namespace

RunCheckpoints::RunCheckpoints(const Config& config, Session& session,
                               const ParameterStore& parameters, ShardedAdamW& optimizer,
                               WallClock& clock, RunReporter* reporter, int64_t saved_step)
    : config_(config.checkpoint),
      session_(session),
      directory_(RunFolder(config.run).checkpoints()),
      parameters_(parameters),
      optimizer_(optimizer),
      clock_(clock),
      reporter_(reporter),
      saved_step_(saved_step) {}

void RunCheckpoints::prepare() {
  const size_t bytes = CheckpointWriter::snapshot_bytes(optimizer_.shard_count());
  memory_ =
      std::async(std::launch::async, [bytes, device = session_.device, ordinal = session_.ordinal] {
        use_device(device, ordinal);
        return Buffer(device, bytes, MemoryKind::pinned);
      });
}

void RunCheckpoints::make_writer() {
  if (!memory_.valid()) {
    prepare();
  }
  const CheckpointLayout layout(parameters_, optimizer_);
  writer_.emplace(*session_.communicator, directory_, memory_.get(), layout.parameters(),
                  layout.ranges(), optimizer_.shard_count(),
                  RetentionRules{config_.keep, config_.keep_every});
}

void RunCheckpoints::begin(const CheckpointMetadata& metadata) {
  const auto since = Clock::now();
  if (writer_) {  // never two at once
    settle([this] { return writer_->finish(); });
  }
  if (metadata.step == saved_step_) {
    return;
  }
  if (!writer_) {
    make_writer();
  }
  if (reporter_ != nullptr) {
    reporter_->sync();
  }
  writing_since_ = Clock::now();
  writing_step_ = metadata.step;
  const auto count = static_cast<size_t>(optimizer_.shard_count());
  const CheckpointWriter::Snapshot snapshot = writer_->snapshot();
  optimizer_.copy_state({snapshot.master.as<float>(), count},
                        {snapshot.first_moment.as<float>(), count},
                        {snapshot.second_moment.as<float>(), count});
  writer_->start(metadata, [this] {
    use_device(session_.device, session_.ordinal);
    optimizer_.wait_for_state_copy();
  });
  stalled_ = seconds_since(since);
}

void RunCheckpoints::notice() {
  if (writer_ && writer_->busy()) {
    settle([this] { return writer_->poll(); });
  }
}

void RunCheckpoints::finish_last() {
  if (!writer_) {
    return;
  }
  try {
    Written written;
    {
      const Stopwatch stalled(stalled_);
      written = writer_->finish();
    }
    note_written(written);
  } catch (const CheckpointError& error) {
    throw CheckpointWriteError(error.what());
  }
}

void RunCheckpoints::settle(const std::function<Written()>& look) {
  try {
    Written written;
    {
      const Stopwatch stalled(stalled_);
      written = look();
    }
    note_written(written);
  } catch (const CheckpointError& error) {
    if (reporter_ != nullptr) {
      reporter_->checkpoint_failed(writing_step_, error.what(), config_.every);
    }
  }
}

void RunCheckpoints::note_written(const Written& written) {
  if (!written) {
    return;
  }
  saved_step_ = writing_step_;
  const double seconds = seconds_since(writing_since_);
  clock_.checkpoint_took(seconds);
  if (reporter_ != nullptr) {
    reporter_->checkpoint_written(saved_step_, written->string(), seconds, stalled_);
  }
}

}  // namespace gsa
