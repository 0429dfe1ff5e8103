// The learning rate as a function of tokens.
#pragma once

#include <cstdint>

#include "trainer/config/config.h"

namespace gsa {

// The learning rate after `tokens_seen` of `token_budget` tokens (> 0). With p = optimizer.lr and
// f = schedule.final_lr, it rises linearly from 0 to p over schedule.warmup_tokens, and then
//   cosine    falls as f + (p - f) (1 + cos(pi x)) / 2, x from 0 to 1 over the rest of the budget,
//   wsd       stays at p until schedule.decay_tokens are left, and falls linearly to f,
//   constant  stays at p.
// Past the budget the rate stays at its last value. A step is meant to ask with the tokens at its
// end, so that the first step's rate is above zero and the last one's is f. It depends on its
// arguments alone, so a resumed run goes on exactly. Throws ConfigError for an unknown kind.
double learning_rate(const ScheduleConfig& schedule, const OptimizerConfig& optimizer,
                     int64_t token_budget, int64_t tokens_seen);

}  // namespace gsa
