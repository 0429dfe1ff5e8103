#include "trainer/cli/step_bench.h"

#include <random>

#include "kernels/cross_entropy.h"
#include "trainer/plan.h"
#include "trainer/products.h"

namespace gsa {
namespace {

constexpr double learning_rate = 1e-4;

data::Batch random_batch(const Config& config, int rank) {
  const int64_t length = config.data.sequence_length;
  const int64_t count = config.train.micro_batch * length;
  std::mt19937_64 random(static_cast<uint64_t>(rank) + 1);
  std::uniform_int_distribution<int32_t> token(0,
                                               static_cast<int32_t>(config.model.vocabulary) - 1);
  data::Batch batch;
  for (int64_t i = 0; i < count; ++i) {
    batch.tokens.push_back(token(random));
    batch.labels.push_back(token(random));
  }
  for (int64_t i = 0; i <= config.train.micro_batch; ++i) {
    batch.sequence_offsets.push_back(static_cast<int32_t>(i * length));
  }
  return batch;
}

}  // namespace

StepBench::StepBench(const Config& config, int64_t accumulation, Session& session)
    : accumulation_(accumulation),
      tokens_(config.train.micro_batch * config.data.sequence_length),
      session_(session),
      engine_(config.model, training_options(config.train, session.device, session.dtype,
                                             session.communicator->size(), accumulation)),
      optimizer_(config.optimizer, engine_.parameters(), *session.communicator, engine_.stream()),
      hooks_(optimizer_),
      batch_(session.device),
      memory_(session.device, static_cast<size_t>(tokens_) * sizeof(float) + 4 * sizeof(double)) {
  totals_ = memory_.tensor(DType::float64, {2});
  losses_ = memory_.tensor(DType::float32, {tokens_}, 4 * sizeof(double));
  optimizer_.initialize(config.run.seed, config.model.init_std);
  host_batch_ = random_batch(config, session.communicator->rank());
  const HostSequences sequences(config.train.micro_batch, config.data.sequence_length);
  const auto view = sequences.view(session.device);
  const PassCost cost = plan_training(config.model, engine_.options(), view);
  require_room(session, cost);
  prepare_products(session, engine_.stream(), cost, /*remembered=*/{});
  engine_.reserve_training(view);
}

void StepBench::step() {
  fill_zero(engine_.stream(), totals_);
  for (int64_t i = 0; i < accumulation_; ++i) {
    batch_.upload(engine_.stream(), host_batch_);
    Pass pass = engine_.pass(batch_.sequences());
    pass.hooks = hooks_.of(i, accumulation_);
    engine_.model().forward_backward(pass, batch_.tokens(), batch_.labels(), 1.0 / nominal_tokens(),
                                     losses_);
    kernels::sum_losses(engine_.stream(),
                        {.losses = losses_, .labels = batch_.labels(), .totals = totals_});
  }
  session_.communicator->all_reduce(engine_.stream(), totals_);
  optimizer_.update(learning_rate, totals_, nominal_tokens());
}

double StepBench::nominal_tokens() const {
  return double(tokens_ * accumulation_ * session_.communicator->size());
}

}  // namespace gsa
