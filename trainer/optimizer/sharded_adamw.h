// AdamW over a model whose optimizer state is cut over the ranks (ZeRO stage 1, arXiv 1910.02054).
//
// Every rank holds all weights and all gradients, but masters and moments only of its own part of
// each bucket. As a bucket's gradients become complete they are summed over the ranks, each rank
// receiving its part (`reduce`); `update` clips by the global norm, updates the own parts and
// gathers the new weights of all. Communication has a stream of its own: reductions run behind the
// rest of backward, and the gathering of a bucket behind the next step's work before it
// (`wait_for_weights`).
//
// Where the model computes in bfloat16 a master is its weight and 16 bits more (SplitMaster):
// float32 masters exist on their way from and to the host only.
#pragma once

#include <limits>
#include <span>
#include <vector>

#include "trainer/config/config.h"
#include "trainer/distributed/communicator.h"
#include "trainer/distributed/open_memory.h"
#include "trainer/model/parameters.h"
#include "trainer/optimizer/shard_range.h"

namespace gsa {

class ShardedAdamW {
 public:
  ShardedAdamW(const OptimizerConfig& config, ParameterStore& parameters,
               Communicator& communicator, Stream& compute);

  // Masters from their initial distribution, moments zero; weights follow.
  void initialize(int64_t seed, double init_std);

  // In the first micro-batch of a step, before the bucket's gradients are written: they begin anew.
  void begin_gradients(int bucket);
  // The bucket's gradients are complete on this rank (queued on the compute stream): sums them over
  // the ranks behind it.
  void reduce(int bucket);
  // After all buckets were reduced: clips and updates with this rate, then gathers weights.
  // `totals` [2+] float64 on the device holds the loss sum and the count of labels, summed over the
  // ranks; the gradients were made with the loss scaled by 1 / nominal_tokens. Where a sum is not
  // finite, or the mean loss is above `loss_limit`, nothing is changed: `verdict()` tells.
  void update(double learning_rate, const Tensor& totals, double nominal_tokens,
              double loss_limit = std::numeric_limits<double>::infinity());
  // Later work on the compute stream sees the bucket's new weights.
  void wait_for_weights(int bucket);
  void wait_for_all_weights();

  // [2] float64 on the device, of the last update: the gradient's norm before clipping, and what
  // gradients were multiplied with; NaN where the update was skipped.
  Tensor verdict() const { return scalars_.rows(1, 3); }

  // Updates applied; AdamW's t. Skipped steps do not count: the caller takes them back.
  int64_t updates() const { return updates_; }
  void set_updates(int64_t updates) { updates_ = updates; }

  // This rank's shard, for checkpoints: what it holds, and its state in host memory and back.
  const std::vector<ShardRange>& ranges() const { return ranges_; }
  int64_t shard_count() const { return shard_count_; }
  // Queues copies of the state as the last update left it, beside the work that follows: only the
  // next update waits for them. The memory must stay, pinned on CUDA, until they are there.
  void copy_state(std::span<float> master, std::span<float> first, std::span<float> second);
  // Waits for the copies; any thread whose current device is the state's may call it.
  void wait_for_state_copy() const { state_copied_.synchronize(); }
  void write_state(std::span<const float> master, std::span<const float> first,
                   std::span<const float> second);

  // Bytes of the state of a parameter of a model that computes in `weights`; and of `elements`
  // parameters on a rank, with what copies of masters need on their way.
  static size_t element_bytes(DType weights, DType gradients);
  static size_t state_bytes(int64_t elements, DType weights, DType gradients);
  // Bytes of a rank's part of the largest bucket's gradients.
  static size_t largest_part_bytes(const ParameterStore& parameters, int ranks);

 private:
  struct Part {                // this rank's part of a bucket
    int64_t bucket_begin = 0;  // within the bucket
    int64_t count = 0;
    int64_t shard_offset = 0;
  };
  void lay_out();
  void allocate_state();
  void clear_state();
  // Later work on the compute stream waits for a collective.
  void wait_for(const Event& collective);
  void gather(int bucket);
  Tensor own(const Tensor& bucket_tensor, int bucket) const;
  Tensor own_weights(int bucket) const { return own(parameters_.bucket_weights(bucket), bucket); }
  // The bucket's part of a tensor of the whole shard.
  Tensor part(const Tensor& shard, int bucket) const;
  // Where the shard's masters are put before weights are made of them: where they stay, or if they
  // are split, where the first moments come behind them.
  Tensor incoming_masters() const { return splits_ ? first_moments_ : masters_; }
  void weights_from_masters();
  void copy_masters(std::span<float> target);

  OptimizerConfig config_;
  ParameterStore& parameters_;
  Communicator& communicator_;
  OpenMemory open_;  // the weights, to the other ranks
  Stream& compute_;
  Stream communication_;
  Stream copies_;
  std::vector<Part> parts_;
  std::vector<ShardRange> ranges_;
  int64_t shard_count_ = 0;
  DType dtype_;
  bool splits_;          // masters lie in two parts
  Buffer state_memory_;  // of which all that follows is
  Tensor first_moments_;
  Tensor second_moments_;
  Tensor masters_;     // or
  Tensor remainders_;  // beside the weights, and
  Tensor joined_;      // masters on their way to the host
  Buffer scalar_memory_;
  Tensor scalars_;  // squared norm, norm, scale
  std::vector<Event> gradients_done_;
  std::vector<Event> weights_done_;
  Event updated_;
  Event state_copied_;
  int64_t updates_ = 0;
};

}  // namespace gsa
