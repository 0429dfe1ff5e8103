// How a model's weights begin: a function of seed, name and index alone, the same bits for any
// number of ranks and on any device.
#pragma once

#include <span>

#include "trainer/model/parameters.h"
#include "trainer/optimizer/shard_range.h"

namespace gsa {

class InitialWeights {
 public:
  InitialWeights(const ParameterStore& parameters, int64_t seed, double std)
      : parameters_(parameters), seed_(seed), std_(std) {}

  // Fills `shard` [n] float32 on the stream's device where the ranges lie, and waits for it.
  // Numbers are made on the device (kernels/normal.h); the few that it cannot be sure of, on the
  // host.
  void write(Stream& stream, std::span<const ShardRange> ranges, const Tensor& shard) const;

 private:
  const ParameterInfo& info(const ShardRange& range) const {
    return parameters_.parameters()[range.parameter];
  }
  // Queues what the device makes; `doubtful` is normal_fill's.
  void fill(Stream& stream, const ShardRange& range, const Tensor& doubtful,
            const Tensor& target) const;
  // Puts the host's numbers where `doubtful`, copied to the host, says so, and waits for it.
  void settle(Stream& stream, const ShardRange& range, std::span<const int32_t> doubtful,
              const Tensor& target) const;

  const ParameterStore& parameters_;
  int64_t seed_;
  double std_;
};

}  // namespace gsa
