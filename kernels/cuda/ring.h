// Places that are used in turn, such as the chunks of a ring in shared memory.
#pragma once

namespace gsa::kernels::cuda {

// Which of `count` places is the next one; `phase` is that of their barriers.
class Turn {
 public:
  __device__ explicit Turn(int count) : count_(count) {}
  __device__ int place() const { return place_; }
  __device__ int phase() const { return phase_; }
  __device__ void advance() {
    if (++place_ == count_) {
      place_ = 0;
      phase_ ^= 1;
    }
  }

 private:
  int count_;
  int place_ = 0;
  int phase_ = 0;
};

}  // namespace gsa::kernels::cuda
