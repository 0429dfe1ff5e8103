#include "trainer/signals.h"

#include <csignal>

namespace gsa {
namespace {

constexpr int stop_signals[] = {SIGTERM, SIGINT, SIGUSR1};
// The one thing a signal handler may write to.
volatile std::sig_atomic_t signal_received = 0;

void note_signal(int signal) {
  signal_received = signal;
  for (const int other : stop_signals) {
    std::signal(other, SIG_DFL);
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
