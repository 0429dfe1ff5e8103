// Signals that ask a run to stop: SIGTERM, SIGINT, SIGUSR1 (schedulers send them before they take a
// node back). The first one is noted, and the run checkpoints and leaves at the end of its step;
// the second one ends the process at once.
#pragma once

namespace gsa {

class StopSignals {
 public:
  StopSignals();   // takes the signals over
  ~StopSignals();  // gives them back
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  // The signal that came, or 0.
  int received() const;
};

}  // namespace gsa
