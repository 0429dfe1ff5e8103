// The optimizer's shard in the words of checkpoints.
#pragma once

#include <span>
#include <vector>

#include "trainer/checkpoint/checkpoint.h"
#include "trainer/optimizer/sharded_adamw.h"

namespace gsa {

class CheckpointLayout {
 public:
  CheckpointLayout(const ParameterStore& parameters, const ShardedAdamW& optimizer);
  // All of every parameter in one flat buffer: for reading weights alone.
  explicit CheckpointLayout(const ParameterStore& parameters);

  // The shard over these buffers; valid as long as the layout and the buffers are.
  CheckpointShard shard(std::span<float> master, std::span<float> first = {},
                        std::span<float> second = {}) const;
  const std::vector<CheckpointParameter>& parameters() const { return parameters_; }
  const std::vector<CheckpointRange>& ranges() const { return ranges_; }
  int64_t count() const { return count_; }

 private:
  std::vector<CheckpointParameter> parameters_;
  std::vector<CheckpointRange> ranges_;
  int64_t count_ = 0;
};

// Reads the masters of a checkpoint into the weights of a store that holds them whole.
void load_weights(const std::filesystem::path& checkpoint, ParameterStore& parameters,
                  Stream& stream);

}  // namespace gsa
