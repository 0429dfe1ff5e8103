#include "data/loader.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <numeric>
#include <thread>
#include <utility>

#include "data/error.h"
#include "data/json_text.h"
#include "data/mixture.h"

namespace gsa::data {
namespace {

using Clock = std::chrono::steady_clock;

LoaderOptions checked(LoaderOptions options) {
  if (options.sources.empty()) throw DataError("no data was named: give a folder of shards");
  if (options.sequence_length < 1 || options.micro_batch < 1 || options.accumulation < 1 ||
      options.start_sample < 0 || options.prefetch < 1) {
    throw DataError(
        fmt::format("sequence length ({}), micro-batch ({}), accumulation ({}) and prefetch ({}) "
                    "must be at least "
                    "1, the first sample ({}) at least 0",
                    options.sequence_length, options.micro_batch, options.accumulation,
                    options.prefetch, options.start_sample));
  }
  if (options.ranks < 1 || options.rank < 0 || options.rank >= options.ranks) {
    throw DataError(
        fmt::format("rank {} of {} ranks: ranks are numbered from 0", options.rank, options.ranks));
  }
  return options;
}

std::vector<double> weights_of(const LoaderOptions& options) {
  std::vector<double> weights;
  for (const auto& source : options.sources) weights.push_back(source.weight);
  return weights;
}

std::vector<std::unique_ptr<WindowSource>> open_all(const LoaderOptions& options) {
  std::vector<std::unique_ptr<WindowSource>> sources;
  for (const auto& source : options.sources) {
    sources.push_back(std::make_unique<WindowSource>(
        source.path, WindowSource::Options{.sequence_length = options.sequence_length,
                                           .vocabulary_size = options.vocabulary_size,
                                           .seed = options.seed,
                                           .visit = options.visit,
                                           .document_starts = options.reset_state_at_documents}));
    const auto& first = sources.front()->stream();
    const auto& stream = sources.back()->stream();
    if (stream.tokenizer().hash != first.tokenizer().hash) {
      throw DataError(
          fmt::format("{} was made with tokenizer {} (hash {}), but {} with {} (hash {}); one run "
                      "takes tokens of "
                      "one tokenizer",
                      stream.path().string(), stream.tokenizer().name, hex(stream.tokenizer().hash),
                      first.path().string(), first.tokenizer().name, hex(first.tokenizer().hash)));
    }
  }
  return sources;
}

}  // namespace

class Loader::Impl {
 public:
  explicit Impl(LoaderOptions options)
      : options_(checked(std::move(options))),
        mixture_(weights_of(options_)),
        sources_(open_all(options_)),
        thread_([this](const std::stop_token& stop) { prefetch(stop); }) {}

  const Batch& next() {
    std::unique_lock lock(mutex_);
    if (current_) free_.push_back(std::exchange(current_, nullptr));
    room_.notify_one();
    const auto start = Clock::now();
    ready_signal_.wait(lock, [this] { return !ready_.empty() || error_; });
    wait_ += Clock::now() - start;
    // What was prepared before the failure comes first.
    if (ready_.empty()) std::rethrow_exception(error_);
    current_ = std::move(ready_.front());
    ready_.pop_front();
    return *current_;
  }

  [[nodiscard]] int64_t windows() const {
    return std::accumulate(sources_.begin(), sources_.end(), int64_t{0},
                           [](int64_t sum, const auto& source) { return sum + source->windows(); });
  }

  [[nodiscard]] int64_t batches() const {
    if (!sequential()) return -1;
    const int64_t together = options_.micro_batch * options_.ranks;
    return (windows() + together - 1) / together;
  }

  [[nodiscard]] const TokenizerInfo& tokenizer() const {
    return sources_.front()->stream().tokenizer();
  }

  [[nodiscard]] double wait_seconds() const {
    const std::lock_guard lock(mutex_);
    return std::chrono::duration<double>(wait_).count();
  }

 private:
  [[nodiscard]] bool sequential() const { return options_.visit == WindowVisit::sequential; }

  void prefetch(const std::stop_token& stop) {
    try {
      for (int64_t number = 0; !stop.stop_requested(); ++number) {
        auto batch = take_free(stop);
        if (!batch) return;
        fill(number, *batch);
        const std::lock_guard lock(mutex_);
        ready_.push_back(std::move(batch));
        ready_signal_.notify_one();
      }
    } catch (...) {
      const std::lock_guard lock(mutex_);
      error_ = std::current_exception();
      ready_signal_.notify_one();
    }
  }

  /// A batch to fill, as soon as fewer than `prefetch` are ready; none when stopped.
  std::unique_ptr<Batch> take_free(const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    const auto limit = static_cast<size_t>(options_.prefetch);
    if (!room_.wait(lock, stop, [&] { return ready_.size() < limit; })) return nullptr;
    if (free_.empty()) return std::make_unique<Batch>();
    auto batch = std::move(free_.back());
    free_.pop_back();
    return batch;
  }

  void fill(int64_t number, Batch& batch) {
    if (sequential() && number >= batches()) {
      throw DataError(fmt::format("{}: all {} batches have been read",
                                  sources_.front()->stream().path().string(), batches()));
    }
    const auto tokens = static_cast<size_t>(options_.micro_batch * options_.sequence_length);
    batch.tokens.resize(tokens);
    batch.labels.resize(tokens);
    batch.sources.resize(tokens);
    batch.sequence_offsets.clear();
    batch.first_sample = first_sample(number);
    for (int64_t i = 0; i < options_.micro_batch; ++i) fill_sequence(i, batch);
    batch.sequence_offsets.push_back(static_cast<int32_t>(tokens));
  }

  /// Of this rank's batch `number`.
  [[nodiscard]] int64_t first_sample(int64_t number) const {
    // accumulation cancels out: batches of all ranks follow each other, step after step.
    return options_.start_sample + (number * options_.ranks + options_.rank) * options_.micro_batch;
  }

  void fill_sequence(int64_t index, Batch& batch) {
    read_sample(batch.first_sample + index);
    const int64_t length = options_.sequence_length;
    const int64_t begin = index * length;
    const auto labels = window_.tokens.begin() + 1;
    std::copy_n(window_.tokens.begin(), length, batch.tokens.begin() + begin);
    std::copy_n(labels, window_.labels, batch.labels.begin() + begin);
    std::fill_n(batch.labels.begin() + begin + window_.labels, length - window_.labels,
                kIgnoredLabel);
    std::copy(window_.sources.begin(), window_.sources.end(), batch.sources.begin() + begin);
    batch.sequence_offsets.push_back(static_cast<int32_t>(begin));
    for (const int32_t start : window_.document_starts) {
      if (start > 0) batch.sequence_offsets.push_back(static_cast<int32_t>(begin) + start);
    }
  }

  /// Reads the sample of this global number into window_.
  void read_sample(int64_t sample) {
    if (!sequential()) {
      const auto choice = mixture_.at(sample);
      sources_[static_cast<size_t>(choice.source)]->read(choice.position, window_);
      return;
    }
    for (const auto& source : sources_) {
      if (sample < source->windows()) {
        source->read(sample, window_);
        return;
      }
      sample -= source->windows();
    }
    const auto length = static_cast<size_t>(options_.sequence_length);
    window_.tokens.assign(length + 1, 0);
    window_.sources.assign(length, kUnknownSource);
    window_.document_starts.clear();
    window_.labels = 0;
  }

  LoaderOptions options_;
  Mixture mixture_;
  std::vector<std::unique_ptr<WindowSource>> sources_;
  Window window_;  // of the prefetching thread

  mutable std::mutex mutex_;
  std::condition_variable_any room_;
  std::condition_variable ready_signal_;
  std::deque<std::unique_ptr<Batch>> ready_;
  std::vector<std::unique_ptr<Batch>> free_;
  std::unique_ptr<Batch> current_;  // lent to the caller
  std::exception_ptr error_;
  Clock::duration wait_{0};
  std::jthread thread_;  // last: it is stopped and joined before the rest goes
};

Loader::Loader(LoaderOptions options) : impl_(std::make_unique<Impl>(std::move(options))) {}
Loader::~Loader() = default;
const Batch& Loader::next() {
  return impl_->next();
}
int64_t Loader::batches() const {
  return impl_->batches();
}
int64_t Loader::windows() const {
  return impl_->windows();
}
const TokenizerInfo& Loader::tokenizer() const {
  return impl_->tokenizer();
}
double Loader::data_wait_seconds() const {
  return impl_->wait_seconds();
}

}  // namespace gsa::data
