#include "trainer/spike_guard.h"

#include <algorithm>
#include <limits>

namespace gsa {

SpikeGuard::SpikeGuard(double factor, int64_t window)
    : factor_(factor), window_(static_cast<size_t>(window)) {}

double SpikeGuard::limit() const {
  if (factor_ == 0 || recent_.size() < window_) {
    return std::numeric_limits<double>::infinity();
  }
  std::vector<double> sorted = recent();
  std::sort(sorted.begin(), sorted.end());
  const size_t middle = sorted.size() / 2;
  const double median =
      sorted.size() % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
  return factor_ * median;
}

void SpikeGuard::applied(double loss) {
  recent_.push_back(loss);
  if (recent_.size() > window_) {
    recent_.pop_front();
  }
}

void SpikeGuard::restore(std::span<const double> losses) {
  recent_.clear();
  for (const double loss : losses) {
    applied(loss);
  }
}

}  // namespace gsa
