#include "trainer/signals.h"

#include <atomic>
#include <csignal>

namespace gsa {
namespace {

constexpr int stop_signals[] = {SIGTERM, SIGINT, SIGUSR1};
// What a signal handler may write to. Two signals at once are handled at the same time, in two
// threads or one within the other: each sees whether it is the first.
std::atomic<int> signal_received = 0;
static_assert(std::atomic<int>::is_always_lock_free);

void note_signal(int signal) {
  if (signal_received.exchange(signal) != 0) {  // the second: as if nobody had taken it over
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  }
}

}  // namespace

StopSignals::StopSignals() {
  signal_received = 0;
  for (const int signal : stop_signals) {
    std::signal(signal, note_signal);
  }
}

StopSignals::~StopSignals() {
  for (const int signal : stop_signals) {
    std::signal(signal, SIG_DFL);
  }
}

int StopSignals::received() const {
  return signal_received;
}

}  // namespace gsa
