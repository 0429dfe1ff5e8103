#include "trainer/optimizer/initial_weights.h"

#include <vector>

#include "kernels/normal.h"

namespace gsa {
namespace {

// A range's list of doubtful numbers: their count, and room for what is some ten in the largest
// matrices.
constexpr int64_t most_doubtful = 1023;
constexpr int64_t list_length = 1 + most_doubtful;

ConstTensor host_tensor(const std::vector<float>& values) {
  return {values.data(), DType::float32, Device::cpu, {static_cast<int64_t>(values.size())}};
}

Tensor part_of(const Tensor& shard, const ShardRange& range) {
  return shard.rows(range.offset, range.offset + range.end - range.begin);
}

}  // namespace

void InitialWeights::write(Stream& stream, std::span<const ShardRange> ranges,
                           const Tensor& shard) const {
  const auto count = static_cast<int64_t>(ranges.size());
  const Buffer memory(stream.device(), ranges.size() * list_length * sizeof(int32_t));
  const Tensor lists = memory.tensor(DType::int32, {count, list_length});
  fill_zero(stream, lists);
  for (int64_t i = 0; i < count; ++i) {
    const ShardRange& range = ranges[static_cast<size_t>(i)];
    fill(stream, range, lists.rows(i, i + 1).reshape({list_length}), part_of(shard, range));
  }
  std::vector<int32_t> doubtful(ranges.size() * list_length);
  copy(stream, lists, {doubtful.data(), DType::int32, Device::cpu, lists.shape()});
  stream.synchronize();
  for (size_t i = 0; i < ranges.size(); ++i) {
    settle(stream, ranges[i], std::span(doubtful).subspan(i * list_length, list_length),
           part_of(shard, ranges[i]));
  }
}

void InitialWeights::fill(Stream& stream, const ShardRange& range, const Tensor& doubtful,
                          const Tensor& target) const {
  if (info(range).initialization == Initialization::ones) {
    const std::vector<float> ones(static_cast<size_t>(target.count()), 1.0F);
    copy(stream, host_tensor(ones), target);
    stream.synchronize();
    return;
  }
  kernels::normal_fill(stream, {.key = initial_key(info(range), seed_),
                                .begin = range.begin,
                                .std = std_,
                                .doubtful = doubtful,
                                .output = target});
}

void InitialWeights::settle(Stream& stream, const ShardRange& range,
                            std::span<const int32_t> doubtful, const Tensor& target) const {
  const int64_t found = doubtful[0];
  const bool all = found > most_doubtful;
  const int64_t count = all ? target.count() : found;
  std::vector<float> values(static_cast<size_t>(count));
  const uint64_t key = initial_key(info(range), seed_);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t at = all ? i : doubtful[static_cast<size_t>(1 + i)];
    float& value = values[static_cast<size_t>(i)];
    value = kernels::normal_value(key, range.begin + at, std_);
    if (!all) {
      copy(stream, {&value, DType::float32, Device::cpu, {1}}, target.rows(at, at + 1));
    }
  }
  if (all) {
    copy(stream, host_tensor(values), target);
  }
  stream.synchronize();
}

}  // namespace gsa
