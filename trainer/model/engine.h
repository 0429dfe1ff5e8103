// A model ready to compute: its parameters in device memory, and the arena of its passes, sized by
// planning before anything runs.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "trainer/model/language_model.h"

namespace gsa {

// What a model is computed with.
struct EngineOptions {
  Device device = Device::cpu;
  DType dtype = DType::float32;
  int ranks = 1;  // decides the padding of buckets
  Keep keep = Keep::everything;
  ParameterStore::Memory memory = ParameterStore::Memory::real;
  ParameterStore::Gradients gradients = ParameterStore::Gradients::own;
};

// Sequences with their offsets in host memory, as plans and tests make them.
class HostSequences {
 public:
  // `count` sequences of `length` tokens.
  HostSequences(int64_t count, int64_t length);
  explicit HostSequences(std::vector<int32_t> offsets) : offsets_(std::move(offsets)) {}
  // A view for operations on `device`; on CUDA only a planning stream may use it.
  kernels::Sequences view(Device device) const;

 private:
  std::vector<int32_t> offsets_;
};

// What one micro-batch costs, measured by running it on a planning stream.
struct PassCost {
  ArenaSize arena;
  double flops = 0;  // floating-point operations, forward and backward
  std::map<std::string, double> flops_by_phase;
  std::vector<kernels::Matmul> products;  // as they are queued; their operands are not real
};

class Engine {
 public:
  Engine(const ModelConfig& config, const EngineOptions& options);

  const EngineOptions& options() const { return options_; }
  ParameterStore& parameters() { return parameters_; }
  const ParameterStore& parameters() const { return parameters_; }
  LanguageModel& model() { return model_; }
  Stream& stream() { return stream_; }
  Tape& tape() { return *tape_; }
  DType statistics() const {
    return options_.dtype == DType::float64 ? DType::float64 : DType::float32;
  }

  // Makes the arena large enough for passes over `sequences`: training (forward and backward), or
  // reading (losses, or the logits of every token if `all_logits`). Costs nothing when it was made
  // for as much before.
  void reserve_training(const kernels::Sequences& sequences);
  void reserve_reading(const kernels::Sequences& sequences, bool all_logits = false);

  // The same for what `queue` does in a pass over `sequences`; it is called once, to be planned.
  void reserve_for(const kernels::Sequences& sequences,
                   const std::function<void(LanguageModel& model, Pass& pass)>& queue);

  // Begins a pass; gradients in the arena, of the pass before, are lost.
  Pass pass(const kernels::Sequences& sequences);

 private:
  // What the arena was made for: it suffices for fewer tokens, sequences and chunks.
  struct Reserved {
    int64_t tokens = 0;
    int64_t sequences = 0;
    int64_t chunks = 0;
  };
  static bool covers(Reserved& reserved, const kernels::Sequences& sequences);
  void reserve(const ArenaSize& size);

  ModelConfig config_;
  EngineOptions options_;
  ParameterStore parameters_;
  LanguageModel model_;
  Stream stream_;
  ArenaSize arena_;
  std::unique_ptr<Tape> tape_;
  Reserved for_training_;
  Reserved for_reading_;
  Reserved for_all_logits_;
};

// The cost of a training micro-batch (`training`) or of reading, without running it.
PassCost plan_training(const ModelConfig& config, const EngineOptions& options,
                       const kernels::Sequences& sequences);
PassCost plan_reading(const ModelConfig& config, const EngineOptions& options,
                      const kernels::Sequences& sequences, bool all_logits = false);

}  // namespace gsa
