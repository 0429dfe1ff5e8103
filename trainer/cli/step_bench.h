// The trainer's step without its data and files, on random tokens: what benchmarks time.
#pragma once

#include "trainer/config/config.h"
#include "trainer/device_batch.h"
#include "trainer/model/engine.h"
#include "trainer/optimizer/sharded_adamw.h"
#include "trainer/session.h"
#include "trainer/step_hooks.h"

namespace gsa {

class StepBench {
 public:
  // Collective; `accumulation` micro-batches a step.
  StepBench(const Config& config, int64_t accumulation, Session& session);

  // Queues a step; collective.
  void step();

  // Of a step, over all ranks.
  double nominal_tokens() const;
  Engine& engine() { return engine_; }
  ShardedAdamW& optimizer() { return optimizer_; }

 private:
  int64_t accumulation_;
  int64_t tokens_;
  Session& session_;
  Engine engine_;
  ShardedAdamW optimizer_;
  StepHooks hooks_;
  DeviceBatch batch_;
  Buffer memory_;
  Tensor totals_;
  Tensor losses_;
  data::Batch host_batch_;
};

}  // namespace gsa
