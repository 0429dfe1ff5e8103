#include "trainer/distributed/collective_watch.h"

#include <charconv>
#include <utility>

namespace gsa {

void CollectiveWatch::queued(const char* name, std::function<bool()> is_done, Time now) {
  const std::lock_guard lock(mutex_);
  if (entries_.empty()) {
    since_ = now;
  }
  entries_.push_back({name, std::move(is_done)});
}

std::optional<CollectiveWatch::Waiting> CollectiveWatch::look(Time now) {
  const std::lock_guard lock(mutex_);
  while (!entries_.empty() && entries_.front().is_done()) {
    entries_.pop_front();
    ++finished_;
    since_ = now;
  }
  if (entries_.empty()) {
    return std::nullopt;
  }
  return Waiting{entries_.front().name, finished_ + 1,
                 std::chrono::duration<double>(now - since_).count()};
}

std::string CollectiveWatch::account() const {
  const std::lock_guard lock(mutex_);
  return std::to_string(finished_) + " finished, next is " +
         (entries_.empty() ? "none" : entries_.front().name);
}

int64_t finished_in(const std::string& account) {
  int64_t finished = -1;
  std::from_chars(account.data(), account.data() + account.size(), finished);
  return finished;
}

}  // namespace gsa
