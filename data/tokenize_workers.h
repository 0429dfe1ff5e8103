#pragma once

#include <chrono>
#include <condition_variable>
#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "data/shard_job.h"
#include "data/tokenize.h"
#include "data/tokenize_plan.h"
#include "data/tokenizer.h"

namespace gsa::data {

/// The threads of one tokenization. Each makes shards of its own while there are unstarted ones;
/// then it helps with those that have most left to read, so that a few large files keep all threads
/// busy. The first exception stops them all.
class TokenizeWorkers {
 public:
  /// Starts `options.threads` threads on the shards `plans`. All arguments outlive the object.
  TokenizeWorkers(const std::vector<const ShardPlan*>& plans, const TokenizeOptions& options,
                  const Tokenizer& tokenizer, TokenizeCounters& counters);

  /// Waits until the end, calling `tick` every `interval`, and throws what a thread or `tick`
  /// threw.
  void wait(std::chrono::milliseconds interval, const std::function<void()>& tick);

 private:
  void run();
  std::shared_ptr<ShardJob> next_job();
  void leave(const std::shared_ptr<ShardJob>& job);
  void stop(const std::exception_ptr& error);

  const std::vector<const ShardPlan*>& plans_;
  const std::filesystem::path& folder_;
  LargeBlocks large_;
  ShardJob::Settings settings_;

  std::mutex mutex_;
  std::condition_variable ended_;
  size_t next_plan_ = 0;
  int running_ = 0;
  std::exception_ptr error_;
  std::vector<std::shared_ptr<ShardJob>> active_;
  std::vector<std::weak_ptr<ShardJob>> leaving_;  // wait for the last blocks of other threads
  std::vector<std::jthread> threads_;             // last: joined before the rest goes
};

}  // namespace gsa::data
