// Rings in shared memory: places that are filled by copies and left again, in turn.
#pragma once

#include "kernels/cuda/async_copy.h"

namespace gsa::kernels::cuda {

// Which of `count` places is the next one, how often all have been used before, and the phase of
// their barriers then.
class Turn {
 public:
  __device__ explicit Turn(int count) : count_(count) {}
  __device__ int place() const { return place_; }
  __device__ int round() const { return round_; }
  __device__ int phase() const { return round_ & 1; }
  __device__ void advance() {
    if (++place_ == count_) {
      place_ = 0;
      ++round_;
    }
  }

 private:
  int count_;
  int place_ = 0;
  int round_ = 0;
};

// The turns of the thread or warp that fills a ring. The ring has a barrier in memory, full(place),
// for when a copy has landed, and wait_empty(place, round) until it has been used. Only `most`
// copies are on their way at a time: what is asked for later, by anybody on the multiprocessor,
// waits behind them.
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
    ring.wait_empty(place, next_.round());
    next_.advance();
    return place;
  }

 private:
  Turn next_;
  Turn landing_;
  int may_begin_;
};

// The turns of those who use what is filled. Every thread leaves a place for itself: a lane that
// arrives for its warp after __syncwarp orders as much, but racecheck does not follow it.
class Emptying {
 public:
  __device__ explicit Emptying(int places) : now_(places) {}

  // Until the copy has landed. Returns its place.
  template <typename Ring>
  __device__ int wait(const Ring& ring) const {
    wait_barrier(ring.full(now_.place()), now_.phase());
    return now_.place();
  }
  template <typename Ring>
  __device__ void leave(const Ring& ring) {
    ring.leave(now_.place());
    now_.advance();
  }

 private:
  Turn now_;
};

}  // namespace gsa::kernels::cuda
