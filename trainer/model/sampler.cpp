#include "trainer/model/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>

namespace gsa {

Sampler::Sampler(const SamplingOptions& options) : options_(options), random_(options.seed) {
  if (!(options.temperature >= 0)) {
    throw std::invalid_argument("the temperature must be 0 or more");
  }
  if (options.top_k < 0) {
    throw std::invalid_argument("top-k must be 0 (all tokens) or more");
  }
  if (!(options.top_p > 0 && options.top_p <= 1)) {
    throw std::invalid_argument("top-p must be above 0 and at most 1");
  }
}

int32_t Sampler::sample(std::span<const float> logits) {
  if (options_.temperature == 0) {
    return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  }
  order_.resize(logits.size());
  std::iota(order_.begin(), order_.end(), 0);
  // Ties are broken by the id, so that the order is one and the same everywhere.
  std::sort(order_.begin(), order_.end(), [&](int32_t a, int32_t b) {
    const float first = logits[static_cast<size_t>(a)];
    const float second = logits[static_cast<size_t>(b)];
    return first != second ? first > second : a < b;
  });
  if (options_.top_k > 0 && static_cast<size_t>(options_.top_k) < order_.size()) {
    order_.resize(static_cast<size_t>(options_.top_k));
  }
  probabilities_.resize(order_.size());
  const double largest = logits[static_cast<size_t>(order_.front())];
  double total = 0;
  for (size_t i = 0; i < order_.size(); ++i) {
    const double logit = logits[static_cast<size_t>(order_[i])];
    probabilities_[i] = std::exp((logit - largest) / options_.temperature);
    total += probabilities_[i];
  }
  double kept = 0;
  size_t count = 0;
  while (count < order_.size() && (count == 0 || kept < options_.top_p * total)) {
    kept += probabilities_[count++];
  }
  // 53 bits of one draw: the same on every standard library.
  double point = double(random_() >> 11) * 0x1.0p-53 * kept;
  for (size_t i = 0; i + 1 < count; ++i) {
    point -= probabilities_[i];
    if (point < 0) {
      return order_[i];
    }
  }
  return order_[count - 1];
}

}  // namespace gsa
