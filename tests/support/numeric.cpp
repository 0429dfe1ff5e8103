#include "tests/support/numeric.h"

#include <cmath>
#include <limits>

namespace gsa::test {

double relative_error(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) {
    return std::numeric_limits<double>::infinity();
  }
  double difference = 0;
  double size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  const double error = size > 0 ? std::sqrt(difference / size) : std::sqrt(difference);
  return std::isnan(error) ? std::numeric_limits<double>::infinity() : error;
}

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    sum += a[i] * b[i];
  }
  return sum;
}

std::vector<double> central_differences(HostTensor& x, const std::function<double()>& loss) {
  constexpr double step = 1e-5;
  std::vector<double> gradient(static_cast<size_t>(x.view().count()));
  for (size_t i = 0; i < gradient.size(); ++i) {
    const auto index = static_cast<int64_t>(i);
    const double value = x.get(index);
    x.set(index, value + step);
    const double above = loss();
    x.set(index, value - step);
    const double below = loss();
    x.set(index, value);
    gradient[i] = (above - below) / (2 * step);
  }
  return gradient;
}

}  // namespace gsa::test
