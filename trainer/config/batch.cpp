// Sizes that follow from the configuration: steps, accumulation, the width of the GLU.
#include <fmt/format.h>

#include "trainer/config/config.h"
#include "trainer/config/error.h"

namespace gsa {
namespace {

int64_t divide_up(int64_t a, int64_t b) {
  return a / b + (a % b != 0 ? 1 : 0);
}

}  // namespace

int64_t ModelConfig::resolved_intermediate() const {
  if (intermediate != 0) return intermediate;
  // 2/3 of the usual 4 x hidden, because a gated unit has three matrices for two, rounded up to
  // whole tiles of the matrix products.
  constexpr int64_t kTile = 256;
  constexpr int64_t kNumerator = 2 * 4;
  constexpr int64_t kDenominator = 3;
  return divide_up(kNumerator * hidden, kDenominator * kTile) * kTile;
}

BatchPlan resolve_batch(const Config& config, int ranks) {
  const TrainConfig& train = config.train;
  if (ranks < 1)
    throw ConfigError(fmt::format("the number of ranks must be at least 1 (got {})", ranks));
  const int64_t unit = train.micro_batch * config.data.sequence_length * ranks;
  BatchPlan plan;
  plan.tokens_per_step = train.batch_tokens == 0 ? unit : train.batch_tokens;
  plan.accumulation = plan.tokens_per_step / unit;
  if (plan.tokens_per_step % unit != 0) {
    const int64_t below = plan.accumulation * unit;
    const int64_t above = below + unit;
    const bool nearer_below =
        below > 0 && plan.tokens_per_step - below < above - plan.tokens_per_step;
    throw ConfigError(fmt::format(
        "train.batch_tokens must be a multiple of micro_batch x sequence_length x ranks = {} x {} "
        "x {} = {} (got {}); set train.batch_tokens={} or another train.micro_batch",
        train.micro_batch, config.data.sequence_length, ranks, unit, train.batch_tokens,
        nearer_below ? below : above));
  }
  plan.steps = divide_up(train.tokens, plan.tokens_per_step);
  return plan;
}

}  // namespace gsa
