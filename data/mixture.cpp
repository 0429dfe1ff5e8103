#include "data/mixture.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "data/error.h"

namespace gsa::data {
namespace {

constexpr int64_t kCycle = int64_t{1} << 20;

void check(std::span<const double> weights) {
  constexpr size_t kMaxSources = std::numeric_limits<uint8_t>::max();
  if (weights.empty() || weights.size() > kMaxSources) {
    throw DataError(
        fmt::format("a mixture has 1 to {} sources (got {})", kMaxSources, weights.size()));
  }
  for (const double weight : weights) {
    if (!(weight > 0) || !std::isfinite(weight)) {
      throw DataError(fmt::format(
          "the weight of a source must be a positive number (got {}); leave out what is not wanted",
          weight));
    }
  }
}

/// Whole numbers in proportion to `weights` that add up to kCycle, none 0: largest remainders.
std::vector<int64_t> apportion(std::span<const double> weights) {
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<int64_t> quota;
  std::vector<double> remainder;
  for (const double weight : weights) {
    const double exact = weight / sum * static_cast<double>(kCycle);
    quota.push_back(std::max<int64_t>(1, static_cast<int64_t>(exact)));
    remainder.push_back(exact - static_cast<double>(quota.back()));
  }
  int64_t left = kCycle - std::accumulate(quota.begin(), quota.end(), int64_t{0});
  while (left != 0) {
    const int64_t step = left > 0 ? 1 : -1;
    const auto most =
        left > 0 ? std::max_element(remainder.begin(), remainder.end())
                 : std::max_element(quota.begin(), quota.end()) - quota.begin() + remainder.begin();
    quota[static_cast<size_t>(most - remainder.begin())] += step;
    *most -= static_cast<double>(step);
    left -= step;
  }
  return quota;
}

}  // namespace

Mixture::Mixture(std::span<const double> weights) {
  check(weights);
  quota_ = apportion(weights);
  if (weights.size() == 1) return;
  source_.resize(kCycle);
  rank_.resize(kCycle);
  std::vector<int64_t> deficit(weights.size(), 0);  // times kCycle
  std::vector<uint32_t> given(weights.size(), 0);
  for (size_t slot = 0; slot < source_.size(); ++slot) {
    // Every slot goes to the source that is furthest behind its share.
    for (size_t s = 0; s < quota_.size(); ++s) deficit[s] += quota_[s];
    const auto behind =
        static_cast<size_t>(std::max_element(deficit.begin(), deficit.end()) - deficit.begin());
    deficit[behind] -= kCycle;
    source_[slot] = static_cast<uint8_t>(behind);
    rank_[slot] = given[behind]++;
  }
}

Mixture::Choice Mixture::at(int64_t sample) const {
  if (source_.empty()) return {.source = 0, .position = sample};
  const auto slot = static_cast<size_t>(sample % kCycle);
  const auto source = source_[slot];
  return {.source = source, .position = sample / kCycle * quota_[source] + rank_[slot]};
}

}  // namespace gsa::data
