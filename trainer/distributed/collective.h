// What the communicators share: checks of the tensors of a collective, and its place in the
// observer's account.
#pragma once

#include "kernels/device.h"

namespace gsa {

// The phase under which a stream's observer counts what the stream spends on collectives: those
// queued on it, and its waiting for those on other streams.
inline constexpr const char* communication_phase = "communication exposed";

// Each throws std::invalid_argument that names the collective and what does not fit: device of the
// stream, dtype, contiguity, counts (see Communicator for the rules).
void check_reduce_scatter(const Stream& stream, const ConstTensor& input, const Tensor& output,
                          int ranks);
void check_all_gather(const Stream& stream, const ConstTensor& input, const Tensor& output,
                      int ranks);
void check_all_reduce(const Stream& stream, const Tensor& tensor);

// Tells the stream's observer of a collective, or of waiting for one, for as long as it lives.
class ObservedCollective {
 public:
  explicit ObservedCollective(Stream& stream) : observer_(stream.observer()) {
    if (observer_ != nullptr) {
      observer_->before(communication_phase);
    }
  }
  ~ObservedCollective() {
    if (observer_ != nullptr) {
      observer_->after(communication_phase, 0);
    }
  }
  ObservedCollective(const ObservedCollective&) = delete;
  ObservedCollective& operator=(const ObservedCollective&) = delete;

 private:
  OperationObserver* observer_;
};

}  // namespace gsa
