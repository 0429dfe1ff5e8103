// Rings in shared memory: places that are filled by copies and left again, in turn.
#pragma once

#include "kernels/cuda/async_copy.h"

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

// The turns of the thread that fills a ring, which says where barriers lie: full(place) when a copy
// has landed, empty(place) when it has been used. Only `most` copies are on their way at a time:
// what is asked for later, by anybody on the multiprocessor, waits behind them.
class Filling {
 public:
  __device__ Filling(int places, int most) : next_(places), landing_(places), may_begin_(most) {}

  // A place to fill, when there is one.
  template <typename Ring>
  __device__ int begin(const Ring& ring) {
    if (may_begin_ > 0) {
      --may_begin_;
    } else {
      wait_barrier(ring.full(landing_.place()), landing_.phase());
      landing_.advance();
    }
    const int place = next_.place();
    wait_barrier(ring.empty(place), next_.phase() ^ 1);
    next_.advance();
    return place;
  }

 private:
  Turn next_;
  Turn landing_;
  int may_begin_;
};

}  // namespace gsa::kernels::cuda
