// An account of the collectives that a device works on: which one is next, and since when. For
// noticing a rank that never comes: a collective on GPUs waits for it without end and without a
// word. For this folder only.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <string>

namespace gsa {

class CollectiveWatch {
 public:
  using Time = std::chrono::steady_clock::time_point;

  // A collective that the device has not finished.
  struct Waiting {
    std::string name;
    int64_t number = 0;  // of all collectives of this communicator, from 1; alike on every rank
    double seconds = 0;  // since it is the next
  };

  // A collective was queued on the device. `is_done` tells whether the device has run it; it is
  // called from the thread that looks, and for the last time when it says so.
  void queued(const char* name, std::function<bool()> is_done, Time now);

  // Takes note of what is done. The collective that is next, if there is one.
  std::optional<Waiting> look(Time now);

  // What this rank has behind it, as others read it: "41 finished, next is all_reduce".
  std::string account() const;

 private:
  struct Entry {
    const char* name;
    std::function<bool()> is_done;
  };
  mutable std::mutex mutex_;
  std::deque<Entry> entries_;
  int64_t finished_ = 0;
  Time since_;  // the first entry is the next one
};

// How many collectives a rank's account says are finished; -1 if it says nothing of the kind.
int64_t finished_in(const std::string& account);

}  // namespace gsa
