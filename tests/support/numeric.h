// Comparing results, and gradients by central differences.
#pragma once

#include <functional>
#include <vector>

#include "tests/support/host_tensor.h"

namespace gsa::test {

// ||a - b|| / ||b||; ||a - b|| where b is zero; infinity if the sizes differ or a value is no
// number.
double relative_error(const std::vector<double>& a, const std::vector<double>& b);

// The sum of a[i] * b[i].
double dot(const std::vector<double>& a, const std::vector<double>& b);

// The gradient of loss() by each element of `x` (float64): (loss(x + h) - loss(x - h)) / 2h. Costs
// two calls an element; leaves x as it was.
std::vector<double> central_differences(HostTensor& x, const std::function<double()>& loss);

// What central_differences leaves of a right gradient, by relative_error: rounding in the loss over
// the step (1e-16 / 1e-5) and the step squared, with room for losses of many terms.
inline constexpr double central_difference_tolerance = 1e-8;

// Rounding of a few float32 operations an element.
inline constexpr double float_tolerance = 1e-6;

// Rounding of a few float64 operations an element.
inline constexpr double double_tolerance = 1e-13;

}  // namespace gsa::test
