#include "trainer/trainer.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmath>
#include <fstream>

#include "kernels/cross_entropy.h"
#include "trainer/checkpoint_layout.h"
#include "trainer/config/error.h"
#include "trainer/config/values.h"
#include "trainer/loader_options.h"
#include "trainer/metrics/log.h"
#include "trainer/optimizer/schedule.h"
#include "trainer/plan.h"
#include "trainer/products.h"
#include "trainer/versions.h"

namespace gsa {
namespace {

// What a step brings to the host, float64: the totals over the ranks, then the optimizer's verdict.
enum Value : int64_t { loss_sum, counted_labels, signalled, out_of_time, gradient_norm, scale };
constexpr int64_t total_count = gradient_norm;
constexpr int64_t value_count = scale + 1;
constexpr double bytes_per_gib = 1024.0 * 1024.0 * 1024.0;
constexpr double flops_per_tflop = 1e12;

// What this process holds in memory now; absent where the machine does not say.
std::optional<double> host_gib() {
  std::ifstream file("/proc/self/statm");  // in pages: all that is mapped, what is in memory
  double mapped = 0;
  double resident = 0;
  if (!(file >> mapped >> resident)) {
    return std::nullopt;
  }
  return resident * double(sysconf(_SC_PAGESIZE)) / bytes_per_gib;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

Trainer::Trainer(const Config& config, Session& session, const std::string& resume)
    : config_(config),
      session_(session),
      folder_(config.run),
      batch_plan_(resolve_batch(config, session.communicator->size())),
      engine_(config.model,
              training_options(config.train, session.device, session.dtype,
                               session.communicator->size(), batch_plan_.accumulation)),
      optimizer_(config.optimizer, engine_.parameters(), *session.communicator, engine_.stream()),
      hooks_(optimizer_),
      batch_(session.device),
      spikes_(config.train.spike_factor, config.train.spike_window) {
  const int64_t tokens = config.train.micro_batch * config.data.sequence_length;
  loss_memory_ = Buffer(session.device, static_cast<size_t>(tokens) * sizeof(float));
  losses_ = loss_memory_.tensor(DType::float32, {tokens});
  total_memory_ = Buffer(session.device, total_count * sizeof(double));
  totals_ = total_memory_.tensor(DType::float64, {total_count});
  host_memory_ = Buffer(session.device, value_count * sizeof(double), MemoryKind::pinned);

  const HostSequences sequences(config.train.micro_batch, config.data.sequence_length);
  const auto view = sequences.view(session.device);
  EngineOptions without_recompute = engine_.options();
  without_recompute.keep = Keep::everything;
  model_flops_ = plan_training(config.model, without_recompute, view).flops;
  const PassCost cost = plan_training(config.model, engine_.options(), view);
  require_room(session, cost);  // a step that does not fit leaves no trace on the disk
  const StartingPoint from = find_start(resume);
  products_ = prepare_products(session, engine_.stream(), cost,
                               {from.metadata.product_library, from.metadata.products});
  engine_.reserve_training(view);
  clock_.emplace(parse_duration(config.train.wall_clock_limit).value_or(0),
                 double(optimizer_.shard_count()) * 3 * sizeof(float));
  if (config.distributed.check_weights_every > 0 && session.communicator->size() > 1) {
    weight_check_.emplace(engine_.parameters(), *session.communicator);
  }
  start(from);
}

Trainer::StartingPoint Trainer::find_start(const std::string& resume) const {
  if (config_.data.train.empty()) {
    throw ConfigError("data.train names no shards: give the folder that gsa tokenize wrote");
  }
  // One rank looks, so that all start from the same checkpoint.
  std::string found;
  if (session_.is_root()) {
    folder_.create();
    const auto checkpoint = choose_checkpoint(folder_, resume);
    folder_.write_config(config_);
    found = checkpoint ? checkpoint->string() : "";
  }
  found = session_.communicator->broadcast_text(found);
  return {found, found.empty() ? CheckpointMetadata() : read_metadata(found)};
}

void Trainer::start(const StartingPoint& from) {
  if (from.checkpoint.empty()) {
    optimizer_.initialize(config_.run.seed, config_.model.init_std);
  } else {
    load(from);
  }
  if (!config_.data.validation.empty()) {
    validation_.emplace(validation_options(config_), session_, engine_);
  }
  loader_.emplace(
      loader_options(config_, *session_.communicator, batch_plan_, progress_.next_sample));
  if (session_.is_root()) {
    reporter_ = std::make_unique<RunReporter>(folder_, progress_.step, batch_plan_.steps,
                                              config_.log.every);
    reporter_->started(session_.communicator->size(), from.checkpoint.string());
    describe();
  }
  checkpoints_.emplace(config_, session_, engine_.parameters(), optimizer_, *clock_,
                       reporter_.get(), progress_.step);
}

void Trainer::load(const StartingPoint& from) {
  const auto& [checkpoint, metadata] = from;
  const auto count = static_cast<size_t>(optimizer_.shard_count());
  std::vector<float> master(count);
  std::vector<float> first(count);
  std::vector<float> second(count);
  const CheckpointLayout layout(engine_.parameters(), optimizer_);
  read_checkpoint(checkpoint, layout.shard(master, first, second));
  optimizer_.write_state(master, first, second);
  optimizer_.set_updates(metadata.optimizer_step);
  spikes_.restore(metadata.recent_losses);
  progress_ = {metadata.step, metadata.tokens_seen, metadata.next_sample};
  applied_ = progress_;
  if (session_.is_root()) {
    log_info(fmt::format("resuming from {}: step {}, {} tokens seen", checkpoint.string(),
                         progress_.step, human_count(double(progress_.tokens_seen))));
  }
}

void Trainer::describe() const {
  const DeviceInfo device = device_info(session_.device, session_.ordinal);
  log_info(fmt::format(
      "{}: {} parameters, {} ranks on {}, {} steps of {} tokens ({} micro-batches of {} x {} a "
      "rank)",
      config_.run.name, human_count(double(engine_.parameters().parameter_count())),
      session_.communicator->size(), device.name, batch_plan_.steps,
      human_count(double(batch_plan_.tokens_per_step)), batch_plan_.accumulation,
      config_.train.micro_batch, config_.data.sequence_length));
  if (session_.communicator->size() > 1) {
    log_info("between ranks: " + session_.communicator->transport());
  }
}

RunEnd Trainer::run() {
  const int64_t first_step = progress_.step;
  while (progress_.step < batch_plan_.steps && stop_reason_.empty()) {
    const auto begin = std::chrono::steady_clock::now();
    const StepMetrics metrics = step();
    if (reporter_) {
      reporter_->step(metrics);
    }
    clock_->step_took(seconds_since(begin));  // with its validation
    if (progress_.step == first_step + 1) {
      checkpoints_->prepare();  // where it delays no first step
      if (reporter_) {
        reporter_->first_step(progress_.step, process_age());
      }
    }
    if (skipped_in_a_row_ >= config_.train.max_skipped_steps) {
      give_up();
    }
    const int64_t limit = config_.train.stop_after_steps;
    // Not next to a skipped step: whoever resumes would do it again, and stop there again.
    if (limit > 0 && progress_.step - first_step >= limit && skipped_in_a_row_ == 0) {
      stop("train.stop_after_steps");
    }
    const bool last = !stop_reason_.empty() || progress_.step == batch_plan_.steps;
    const int64_t every = config_.checkpoint.every;
    checkpoints_->notice();
    if (!last && every > 0 && progress_.step % every == 0) {
      begin_checkpoint();
    }
  }
  if (progress_.step > first_step) {
    if (reporter_) {
      reporter_->doing("saving", progress_.step);
    }
    begin_checkpoint();
    checkpoints_->finish_last();
  }
  const bool done = progress_.step == batch_plan_.steps;
  if (reporter_) {
    reporter_->ended(done ? "done" : "stopped", progress_.step, done ? "done" : stop_reason_);
    log_info(fmt::format("{} at step {}; last checkpoint: step {}", done ? "done" : "stopped",
                         progress_.step, checkpoints_->saved_step()));
  }
  return done ? RunEnd::done : RunEnd::stopped;
}

StepMetrics Trainer::step() {
  const auto begin = std::chrono::steady_clock::now();
  const double waited_before = loader_->data_wait_seconds();
  const int64_t tokens = progress_.tokens_seen + batch_plan_.tokens_per_step;
  const double rate =
      learning_rate(config_.schedule, config_.optimizer, config_.train.tokens, tokens);

  fill_zero(engine_.stream(), totals_);
  for (int64_t i = 0; i < batch_plan_.accumulation; ++i) {
    micro_batch(loader_->next(), hooks_.of(i, batch_plan_.accumulation));
  }
  const StepResult result = finish_step(rate);

  ++progress_.step;
  progress_.tokens_seen = tokens;
  progress_.next_sample += batch_plan_.tokens_per_step / config_.data.sequence_length;
  judge(result);

  StepMetrics metrics{.step = progress_.step,
                      .tokens_seen = tokens,
                      .loss = result.loss,
                      .learning_rate = rate,
                      .gradient_norm = result.gradient_norm,
                      .skipped = !result.applied};
  metrics.timing = timing(seconds_since(begin), loader_->data_wait_seconds() - waited_before);
  const int64_t check_every = config_.distributed.check_weights_every;
  if (weight_check_ && progress_.step % check_every == 0) {
    optimizer_.wait_for_all_weights();
    weight_check_->run(engine_.stream(), progress_.step);
  }
  if (validation_is_due()) {
    if (reporter_) {
      reporter_->doing("validating", progress_.step);
    }
    optimizer_.wait_for_all_weights();
    metrics.validation = validation_->run();
  }
  return metrics;
}

void Trainer::micro_batch(const data::Batch& batch, const BucketHooks* hooks) {
  batch_.upload(engine_.stream(), batch);
  engine_.reserve_training(batch_.sequences());
  Pass pass = engine_.pass(batch_.sequences());
  pass.hooks = hooks;
  engine_.model().forward_backward(pass, batch_.tokens(), batch_.labels(),
                                   1.0 / double(batch_plan_.tokens_per_step), losses_);
  kernels::sum_losses(engine_.stream(),
                      {.losses = losses_, .labels = batch_.labels(), .totals = totals_.rows(0, 2)});
}

bool Trainer::validation_is_due() const {
  const int64_t every = config_.train.validate_every;
  return validation_ &&
         (progress_.step == batch_plan_.steps || (every > 0 && progress_.step % every == 0));
}

Trainer::StepResult Trainer::finish_step(double rate) {
  Stream& stream = engine_.stream();
  const Tensor host = host_memory_.tensor(DType::float64, {value_count});
  auto* values = host.as<double>();
  values[signalled] = signals_.received() != 0 ? 1.0 : 0.0;
  values[out_of_time] = clock_->is_up() ? 1.0 : 0.0;
  copy(stream, host.rows(signalled, total_count), totals_.rows(signalled, total_count));
  StepResult result;
  result.loss_limit = spikes_.limit();
  session_.communicator->all_reduce(stream, totals_);
  optimizer_.update(rate, totals_, double(batch_plan_.tokens_per_step), result.loss_limit);
  copy(stream, totals_, host.rows(0, total_count));
  copy(stream, optimizer_.verdict(), host.rows(total_count, value_count));
  stream.synchronize();
  session_.communicator->require_healthy();

  result.loss = values[loss_sum] / values[counted_labels];
  result.signalled = values[signalled] > 0;
  result.out_of_time = values[out_of_time] > 0;
  result.gradient_norm = values[gradient_norm];
  result.applied = std::isfinite(values[scale]);
  return result;
}

void Trainer::judge(const StepResult& result) {
  if (result.signalled) {
    stop("a signal");
  } else if (result.out_of_time) {
    stop("train.wall_clock_limit");
  }
  if (result.applied) {
    skipped_in_a_row_ = 0;
    applied_ = progress_;
    spikes_.applied(result.loss);
    return;
  }
  // The update left everything as it was; it must not count in AdamW's bias correction either.
  optimizer_.set_updates(optimizer_.updates() - 1);
  ++skipped_in_a_row_;
  if (reporter_) {
    const bool finite = std::isfinite(result.loss) && std::isfinite(result.gradient_norm);
    const int64_t samples = batch_plan_.tokens_per_step / config_.data.sequence_length;
    reporter_->skipped(
        progress_.step,
        fmt::format("its loss is {}{} and its gradient's norm {} (samples {} to {}; {} in a row, "
                    "{} of the run)",
                    result.loss,
                    finite ? fmt::format(", above {} times the median of the last {}, {:.6g},",
                                         config_.train.spike_factor, config_.train.spike_window,
                                         result.loss_limit)
                           : "",
                    result.gradient_norm, progress_.next_sample - samples,
                    progress_.next_sample - 1, skipped_in_a_row_,
                    progress_.step - optimizer_.updates()));
  }
}

void Trainer::stop(const std::string& reason) {
  if (stop_reason_.empty()) {
    stop_reason_ = reason;
  }
}

void Trainer::give_up() {
  begin_checkpoint();
  checkpoints_->finish_last();
  const std::string what = fmt::format(
      "{} steps in a row were skipped, {} to {}: their losses or gradients are not finite, or "
      "spikes (train.spike_factor); {}; lower optimizer.lr, or start again from an earlier "
      "checkpoint with --resume PATH",
      skipped_in_a_row_, applied_.step + 1, progress_.step,
      checkpoints_->saved_step() > 0
          ? fmt::format("the last checkpoint is from before them: step {}",
                        checkpoints_->saved_step())
          : "there is no checkpoint from before them");
  if (reporter_) {
    reporter_->ended("failed", progress_.step, what);
  }
  throw std::runtime_error(what);
}

StepTiming Trainer::timing(double seconds, double waited) const {
  StepTiming timing{.seconds = seconds,
                    .tokens_per_second = double(batch_plan_.tokens_per_step) / seconds,
                    .data_wait_ms = waited * 1e3,
                    .memory_gib = memory_gib(),
                    .host_gib = host_gib()};
  const int ranks = session_.communicator->size();
  const double flops = model_flops_ * double(batch_plan_.accumulation) * ranks / seconds;
  timing.tflops = flops / flops_per_tflop;
  if (session_.device == Device::cuda) {
    const double peak = device_info(session_.device, session_.ordinal).peak_bf16_flops;
    if (peak > 0) {
      timing.share_of_peak = flops / (peak * ranks);
    }
  }
  return timing;
}

double Trainer::memory_gib() const {
  if (session_.device == Device::cuda) {
    const DeviceInfo device = device_info(session_.device, session_.ordinal);
    return double(device.memory_bytes - device.free_bytes) / bytes_per_gib;
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  constexpr double bytes_per_kib = 1024.0;
  return double(usage.ru_maxrss) * bytes_per_kib / bytes_per_gib;
}

void Trainer::begin_checkpoint() {
  const Progress& state = progress_.step == batch_plan_.steps ? progress_ : applied_;
  checkpoints_->begin({.step = state.step,
                       .optimizer_step = optimizer_.updates(),
                       .tokens_seen = state.tokens_seen,
                       .next_sample = state.next_sample,
                       .seed = config_.run.seed,
                       .recent_losses = spikes_.recent(),
                       .ranks = session_.communicator->size(),
                       .config = to_yaml(config_),
                       .versions = library_versions(),
                       .product_library = products_.library,
                       .products = products_.choices});
}

}  // namespace gsa
