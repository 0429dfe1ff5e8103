// Steps whose loss jumps: a loss above `factor` times the median of the last `window` losses that
// were trained on marks a batch that would throw the model back. The limit is known before a step
// begins, so that the step decides on the device, alike on every rank, whether to be applied.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

namespace gsa {

class SpikeGuard {
 public:
  // `factor` 0: never a limit. Losses are remembered all the same, so that a run can turn the check
  // on where it resumes.
  SpikeGuard(double factor, int64_t window);

  // What the next step's mean loss may be: factor * median; infinity until `window` losses are
  // known.
  double limit() const;

  // A step was applied (skipped ones do not count).
  void applied(double loss);

  // The last losses, oldest first, for checkpoints: restored, the guard gives the same limits to
  // the bit. Of more than `window` the newest count.
  std::vector<double> recent() const { return {recent_.begin(), recent_.end()}; }
  void restore(std::span<const double> losses);

 private:
  double factor_;
  size_t window_;
  std::deque<double> recent_;
};

}  // namespace gsa
