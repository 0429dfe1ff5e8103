#include "trainer/plan.h"

#include "trainer/optimizer/sharded_adamw.h"

namespace gsa {

int64_t count_parameters(const ModelConfig& config) {
  ParameterStore parameters(Device::cpu, DType::float32, 1);
  const LanguageModel model(config, parameters);
  return parameters.parameter_count();
}

Keep kept_for_backward(const TrainConfig& config) {
  if (config.recompute == "block") {
    return Keep::input;
  }
  return config.recompute == "norms" ? Keep::norm_inputs : Keep::everything;
}

EngineOptions training_options(const TrainConfig& config, Device device, DType dtype, int ranks,
                               int64_t accumulation) {
  return {.device = device,
          .dtype = dtype,
          .ranks = ranks,
          .keep = kept_for_backward(config),
          .gradients = accumulation == 1 ? ParameterStore::Gradients::in_arena
                                         : ParameterStore::Gradients::own};
}

RunPlan plan_run(const Config& config, Device device, DType dtype, int ranks) {
  const BatchPlan batch = resolve_batch(config, ranks);
  const EngineOptions options =
      training_options(config.train, device, dtype, ranks, batch.accumulation);
  ParameterStore parameters(device, dtype, ranks);
  const LanguageModel model(config.model, parameters);
  parameters.allocate(ParameterStore::Memory::planning);

  const HostSequences sequences(config.train.micro_batch, config.data.sequence_length);
  EngineOptions without_recompute = options;
  without_recompute.keep = Keep::everything;
  const PassCost cost = plan_training(config.model, without_recompute, sequences.view(device));

  RunPlan plan;
  plan.parameters = parameters.parameter_count();
  plan.ranks = ranks;
  plan.batch = batch;
  const size_t arena = plan_training(config.model, options, sequences.view(device)).arena.bytes();
  const auto flat = static_cast<size_t>(parameters.flat_count());
  plan.memory = {.weights = flat * size_of(dtype),
                 .gradients = flat * size_of(parameters.gradient_dtype()),
                 .optimizer = ShardedAdamW::state_bytes(parameters.flat_count() / ranks, dtype,
                                                        parameters.gradient_dtype()),
                 .activations = arena};
  if (options.gradients == ParameterStore::Gradients::in_arena) {
    plan.memory.activations -= plan.memory.gradients;
  }
  const auto tokens = double(config.train.micro_batch * config.data.sequence_length);
  plan.flops_per_token = cost.flops / tokens;
  for (const auto& [phase, flops] : cost.flops_by_phase) {
    if (flops > 0) {
      plan.flops_by_phase[phase] = flops / tokens;
    }
  }
  plan.flops_total = plan.flops_per_token * double(config.train.tokens);
  return plan;
}

}  // namespace gsa
