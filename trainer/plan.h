// What a run will cost, worked out without running it: `gsa plan`.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "trainer/config/config.h"
#include "trainer/model/engine.h"

namespace gsa {

// What train.recompute says.
Keep kept_for_backward(const TrainConfig& config);

// How a run computes. With one micro-batch a step its gradients lie in the arena, over activations
// that are no longer needed; sums over several must outlive a forward pass.
EngineOptions training_options(const TrainConfig& config, Device device, DType dtype, int ranks,
                               int64_t accumulation);

// Memory of one rank by kind, in bytes.
struct MemoryPlan {
  size_t weights = 0;
  size_t gradients = 0;
  size_t optimizer = 0;    // masters and AdamW moments of this rank's shard, as they are stored
  size_t activations = 0;  // what forward keeps, and scratch: what is not under gradients
  size_t total() const { return weights + gradients + optimizer + activations; }
};

struct RunPlan {
  int64_t parameters = 0;
  int ranks = 1;
  BatchPlan batch;
  MemoryPlan memory;
  double flops_per_token = 0;                    // of the model, forward and backward
  std::map<std::string, double> flops_by_phase;  // the same, by phase
  double flops_total = 0;                        // of the token budget
};

// Throws ConfigError if the configuration cannot be run on that many ranks.
RunPlan plan_run(const Config& config, Device device, DType dtype, int ranks);

// Parameters of a model, without padding.
int64_t count_parameters(const ModelConfig& config);

}  // namespace gsa
