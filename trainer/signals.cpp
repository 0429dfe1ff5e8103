#include "trainer/signals.h"

#include <csignal>

namespace gsa {
namespace {

constexpr int stop_signals[] = {SIGTERM, SIGINT, SIGUSR1};
// The one thing a signal handler may write to.
volatile std::sig_atomic_t signal_received = 0;

void note_signal(int signal) {
  if (signal_received != 0) {  // the second: as if nobody had taken it over
    std::signal(signal, SIG_DFL);
    std::raise(signal);
    return;
  }
  signal_received = signal;
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
