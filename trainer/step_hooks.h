// How the micro-batches of a step meet the optimizer: the first one waits for weights and begins
// gradients anew, the last one has them reduced.
#pragma once

#include "trainer/model/pass.h"
#include "trainer/optimizer/sharded_adamw.h"

namespace gsa {

class StepHooks {
 public:
  // The optimizer must outlive the hooks.
  explicit StepHooks(ShardedAdamW& optimizer) {
    first_.before_use = [&optimizer](int bucket) { optimizer.wait_for_weights(bucket); };
    first_.gradients_begin = [&optimizer](int bucket) { optimizer.begin_gradients(bucket); };
    last_.gradients_ready = [&optimizer](int bucket) { optimizer.reduce(bucket); };
    only_ = first_;
    only_.gradients_ready = last_.gradients_ready;
  }

  // Those of micro-batch `index` of `count` in a step; null where there is nothing to do.
  const BucketHooks* of(int64_t index, int64_t count) const {
    const bool last = index + 1 == count;
    if (index == 0) {
      return last ? &only_ : &first_;
    }
    return last ? &last_ : nullptr;
  }

 private:
  BucketHooks first_;
  BucketHooks last_;
  BucketHooks only_;
};

}  // namespace gsa
