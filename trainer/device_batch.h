// A batch on the device. Host memory that the device copies from is kept twice and used in turn, so
// that the next batch is laid down while the last one may still be under way.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "data/loader.h"
#include "kernels/gsa.h"

namespace gsa {

class DeviceBatch {
 public:
  explicit DeviceBatch(Device device);

  // Queues the batch's way to the device. The views below are of the batch uploaded last.
  void upload(Stream& stream, const data::Batch& batch);

  ConstTensor tokens() const { return tokens_; }  // [N] int32
  ConstTensor labels() const { return labels_; }  // [N] int32
  kernels::Sequences sequences() const;

 private:
  struct Staging {
    explicit Staging(Device device) : copied(device) {}
    Buffer memory;  // pinned
    Event copied;
    bool used = false;
  };
  void make_room(size_t bytes);

  Device device_;
  std::array<Staging, 2> staging_;
  size_t turn_ = 0;
  Buffer memory_;
  std::vector<int32_t> offsets_;
  ConstTensor tokens_;
  ConstTensor labels_;
  ConstTensor device_offsets_;
};

}  // namespace gsa
