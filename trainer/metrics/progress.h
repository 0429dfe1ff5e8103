// What a run shows of itself on the terminal, and numbers as people read them.
#pragma once

#include <cstdint>
#include <ostream>
#include <string>

#include "trainer/metrics/metrics.h"

namespace gsa {

// Three digits and a suffix: 999, 1.38B, 524K, 0.0123. Powers of 1000.
std::string human_count(double value);

// Seconds as 0.25s, 8.2s, 3m 05s, 2h 07m or 4d 03h; "?" for what is negative or not finite.
std::string human_duration(double seconds);

// Whether what this process writes to stdout is seen on a terminal as it is written. Under mpirun,
// which gives a rank a pseudo-terminal wherever its own output goes, mpirun's stdout decides.
bool stdout_is_terminal();

// The line of one step:
//   step 12/244  loss 6.9123  lr 3.00e-04  |g| 1.70  5.12K tok/s  0.10 TFLOP/s (12%)  0.4 GiB  left
//   3m 05s
// and the validation loss, where there is one. What is not known is left out.
std::string step_line(const StepMetrics& metrics, int64_t total_steps, double seconds_left);

// Writes step lines, and on a terminal keeps a progress line below them. The time left follows from
// the steps' own times, lately weighted, so the reporter reads no clock. Only rank 0 has one.
class ProgressReporter {
 public:
  // `every`: steps between lines (steps with a validation, the first and the last have one always).
  // `live`: draw the progress line. `out` must outlive the reporter.
  ProgressReporter(std::ostream& out, bool live, int64_t total_steps, int64_t every);
  ~ProgressReporter();
  ProgressReporter(const ProgressReporter&) = delete;
  ProgressReporter& operator=(const ProgressReporter&) = delete;

  void step(const StepMetrics& metrics);

  // Takes the progress line away; before anything else writes to the terminal for good.
  void finish();

 private:
  void draw(const StepMetrics& metrics, double seconds_left);

  std::ostream& out_;
  bool live_;
  int64_t total_steps_;
  int64_t every_;
  int64_t reported_ = 0;
  double seconds_per_step_ = 0;
  bool drawn_ = false;
};

}  // namespace gsa
