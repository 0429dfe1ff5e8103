#include "trainer/device_batch.h"

#include <cstring>

namespace gsa {

DeviceBatch::DeviceBatch(Device device)
    : device_(device), staging_{Staging(device), Staging(device)} {}

kernels::Sequences DeviceBatch::sequences() const {
  return {.host = offsets_, .offsets = device_offsets_};
}

void DeviceBatch::make_room(size_t bytes) {
  if (memory_.bytes() < bytes) {
    // Documents can make more sequences of as many tokens: twice the room settles it soon.
    memory_ = Buffer(device_, 2 * bytes);
  }
  Staging& staging = staging_[turn_];
  if (staging.memory.bytes() < bytes) {
    staging.memory = Buffer(device_, 2 * bytes, MemoryKind::pinned);
  }
}

void DeviceBatch::upload(Stream& stream, const data::Batch& batch) {
  turn_ = (turn_ + 1) % staging_.size();
  Staging& staging = staging_[turn_];
  if (staging.used) {
    staging.copied.synchronize();
  }
  const auto count = static_cast<int64_t>(batch.tokens.size());
  const auto offsets = static_cast<int64_t>(batch.sequence_offsets.size());
  const int64_t total = 2 * count + offsets;
  make_room(static_cast<size_t>(total) * sizeof(int32_t));

  const Tensor host = staging.memory.tensor(DType::int32, {total});
  auto* words = host.as<int32_t>();
  std::memcpy(words, batch.tokens.data(), batch.tokens.size() * sizeof(int32_t));
  std::memcpy(words + count, batch.labels.data(), batch.labels.size() * sizeof(int32_t));
  std::memcpy(words + 2 * count, batch.sequence_offsets.data(),
              batch.sequence_offsets.size() * sizeof(int32_t));
  const Tensor target = memory_.tensor(DType::int32, {total});
  copy(stream, host, target);
  staging.copied.record(stream);
  staging.used = true;

  tokens_ = target.rows(0, count);
  labels_ = target.rows(count, 2 * count);
  device_offsets_ = target.rows(2 * count, total);
  offsets_ = batch.sequence_offsets;
}

}  // namespace gsa
