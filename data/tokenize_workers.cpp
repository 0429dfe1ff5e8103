#include "data/tokenize_workers.h"

#include <algorithm>

namespace gsa::data {
namespace {

/// Blocks that may be in work or wait, for each thread: enough that one slow block does not stop
/// the others, few enough to bound the memory.
constexpr int64_t kBlocksAheadPerThread = 2;

}  // namespace

TokenizeWorkers::TokenizeWorkers(const std::vector<const ShardPlan*>& plans,
                                 const TokenizeOptions& options, const Tokenizer& tokenizer,
                                 TokenizeCounters& counters)
    : plans_(plans),
      folder_(options.output),
      settings_{.tokenizer = tokenizer,
                .large = large_,
                .counters = counters,
                .blocks_ahead = 0,
                .strict = options.strict} {
  const auto hardware = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  running_ = options.threads > 0 ? options.threads : hardware;
  settings_.blocks_ahead = kBlocksAheadPerThread * running_;
  for (int t = running_; t > 0; --t) threads_.emplace_back([this] { run(); });
}

void TokenizeWorkers::wait(std::chrono::milliseconds interval, const std::function<void()>& tick) {
  std::unique_lock lock(mutex_);
  while (!ended_.wait_for(lock, interval, [this] { return running_ == 0; })) {
    lock.unlock();
    try {
      tick();
    } catch (...) {
      stop(std::current_exception());
    }
    lock.lock();
  }
  if (error_) std::rethrow_exception(error_);
}

void TokenizeWorkers::run() {
  try {
    EncodeScratch scratch;
    while (const auto job = next_job()) {
      while (job->step(scratch)) {
      }
      leave(job);
    }
  } catch (...) {
    stop(std::current_exception());
  }
  const std::lock_guard lock(mutex_);
  --running_;
  ended_.notify_all();
}

std::shared_ptr<ShardJob> TokenizeWorkers::next_job() {
  const std::lock_guard lock(mutex_);
  if (error_) return nullptr;
  if (next_plan_ < plans_.size()) {
    active_.push_back(std::make_shared<ShardJob>(*plans_[next_plan_], folder_, settings_));
    ++next_plan_;
    return active_.back();
  }
  const auto most = std::max_element(
      active_.begin(), active_.end(),
      [](const auto& a, const auto& b) { return a->bytes_left() < b->bytes_left(); });
  return most == active_.end() ? nullptr : *most;
}

void TokenizeWorkers::leave(const std::shared_ptr<ShardJob>& job) {
  const std::lock_guard lock(mutex_);
  std::erase(active_, job);
  std::erase_if(leaving_, [](const auto& weak) { return weak.expired(); });
  leaving_.emplace_back(job);
  if (error_) job->cancel();
}

void TokenizeWorkers::stop(const std::exception_ptr& error) {
  const std::lock_guard lock(mutex_);
  if (!error_) error_ = error;
  for (const auto& job : active_) job->cancel();
  for (const auto& weak : leaving_) {
    if (const auto job = weak.lock()) job->cancel();
  }
  active_.clear();
}

}  // namespace gsa::data
