#include "trainer/optimizer/schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "trainer/config/error.h"

namespace gsa {
namespace {

// How far `position` is on the way from `begin` to `end`: 0 before, 1 after.
double progress(int64_t position, int64_t begin, int64_t end) {
  if (position >= end) return 1.0;
  if (position <= begin) return 0.0;
  return static_cast<double>(position - begin) / static_cast<double>(end - begin);
}

}  // namespace

double learning_rate(const ScheduleConfig& schedule, const OptimizerConfig& optimizer,
                     int64_t token_budget, int64_t tokens_seen) {
  const double peak = optimizer.lr;
  const double last = schedule.final_lr;
  if (tokens_seen < schedule.warmup_tokens)
    return peak * progress(tokens_seen, 0, schedule.warmup_tokens);
  if (schedule.kind == "constant") return peak;
  if (schedule.kind == "cosine") {
    const double x = progress(tokens_seen, schedule.warmup_tokens, token_budget);
    return last + (peak - last) * (1.0 + std::cos(std::numbers::pi * x)) / 2.0;
  }
  if (schedule.kind == "wsd") {
    const double x = progress(tokens_seen, token_budget - schedule.decay_tokens, token_budget);
    return std::lerp(peak, last, x);
  }
  throw ConfigError(
      fmt::format("schedule.kind must be cosine, wsd or constant (got \"{}\")", schedule.kind));
}

}  // namespace gsa
