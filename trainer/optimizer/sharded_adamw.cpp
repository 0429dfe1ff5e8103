#include "trainer/optimizer/sharded_adamw.h"

#include <algorithm>

#include "kernels/optimizer.h"
#include "trainer/distributed/collective.h"
#include "trainer/optimizer/initial_weights.h"

namespace gsa {
namespace {

constexpr size_t masters = 0;
constexpr size_t first_moments = 1;
constexpr size_t second_moments = 2;
constexpr size_t states = 3;

}  // namespace

ShardedAdamW::ShardedAdamW(const OptimizerConfig& config, ParameterStore& parameters,
                           Communicator& communicator, Stream& compute)
    : config_(config),
      parameters_(parameters),
      communicator_(communicator),
      compute_(compute),
      communication_(parameters.device()),
      copies_(parameters.device()),
      dtype_(parameters.gradient_dtype()),
      updated_(parameters.device()),
      state_copied_(parameters.device()) {
  lay_out();
  state_memory_ = Buffer(parameters.device(), state_bytes());
  scalar_memory_ = Buffer(parameters.device(), 3 * sizeof(double));
  scalars_ = scalar_memory_.tensor(DType::float64, {3});
  fill_zero(compute_, state_memory_.tensor(dtype_, {int64_t(states) * shard_count_}));
  for (int bucket = 0; bucket < parameters_.buckets(); ++bucket) {
    gradients_done_.emplace_back(parameters.device());
    weights_done_.emplace_back(parameters.device());
  }
}

size_t ShardedAdamW::state_bytes() const {
  return states * static_cast<size_t>(shard_count_) * size_of(dtype_);
}

void ShardedAdamW::lay_out() {
  const int64_t rank = communicator_.rank();
  for (int bucket = 0; bucket < parameters_.buckets(); ++bucket) {
    const int64_t begin = parameters_.bucket_offset(bucket);
    const int64_t count = (parameters_.bucket_offset(bucket + 1) - begin) / communicator_.size();
    parts_.push_back({rank * count, count, shard_count_});
    const int64_t own_begin = begin + rank * count;
    const auto& infos = parameters_.parameters();
    for (size_t i = 0; i < infos.size(); ++i) {
      const int64_t from = std::max(own_begin, infos[i].offset);
      const int64_t to = std::min(own_begin + count, infos[i].offset + infos[i].shape.count());
      if (from < to) {
        ranges_.push_back({.parameter = i,
                           .begin = from - infos[i].offset,
                           .end = to - infos[i].offset,
                           .offset = shard_count_ + (from - own_begin)});
      }
    }
    shard_count_ += count;
  }
}

Tensor ShardedAdamW::own(const Tensor& bucket_tensor, int bucket) const {
  const Part& part = parts_[static_cast<size_t>(bucket)];
  return bucket_tensor.rows(part.bucket_begin, part.bucket_begin + part.count);
}

Tensor ShardedAdamW::state(size_t which, int bucket) const {
  const Part& part = parts_[static_cast<size_t>(bucket)];
  return whole_state(which).rows(part.shard_offset, part.shard_offset + part.count);
}

Tensor ShardedAdamW::whole_state(size_t which) const {
  return state_memory_.tensor(dtype_, {shard_count_},
                              which * static_cast<size_t>(shard_count_) * size_of(dtype_));
}

void ShardedAdamW::initialize(int64_t seed, double init_std) {
  fill_zero(compute_, state_memory_.tensor(dtype_, {int64_t(states) * shard_count_}));
  InitialWeights(parameters_, seed, init_std).write(compute_, ranges_, whole_state(masters));
  weights_from_masters();
  updates_ = 0;
}

void ShardedAdamW::begin_gradients(int bucket) {
  parameters_.begin_gradients(compute_, bucket);
}

void ShardedAdamW::reduce(int bucket) {
  Event& done = gradients_done_[static_cast<size_t>(bucket)];
  done.record(compute_);
  communication_.wait(done);
  const Tensor gradients = parameters_.bucket_gradients(bucket);
  communicator_.reduce_scatter(communication_, gradients, own(gradients, bucket));
  done.record(communication_);
}

void ShardedAdamW::update(double learning_rate, const Tensor& totals, double nominal_tokens,
                          double loss_limit) {
  const Tensor squared = scalars_.rows(0, 1);
  const Tensor scale = scalars_.rows(2, 3);
  fill_zero(compute_, squared);
  for (int bucket = 0; bucket < parameters_.buckets(); ++bucket) {
    wait_for(gradients_done_[static_cast<size_t>(bucket)]);
    kernels::squared_norm(
        compute_, {.input = own(parameters_.bucket_gradients(bucket), bucket), .sum = squared});
  }
  communicator_.all_reduce(compute_, squared);
  kernels::clip_scale(compute_, {.squared_norm = squared,
                                 .totals = totals.rows(0, 2),
                                 .nominal_tokens = nominal_tokens,
                                 .max_norm = config_.clip,
                                 .loss_limit = loss_limit,
                                 .norm = scalars_.rows(1, 2),
                                 .scale = scale});
  ++updates_;
  compute_.wait(state_copied_);
  for (int bucket = 0; bucket < parameters_.buckets(); ++bucket) {
    kernels::AdamW args{.gradient = own(parameters_.bucket_gradients(bucket), bucket),
                        .scale = scale,
                        .learning_rate = learning_rate,
                        .beta1 = config_.beta1,
                        .beta2 = config_.beta2,
                        .epsilon = config_.eps,
                        .weight_decay = config_.weight_decay,
                        .step = updates_,
                        .master = state(masters, bucket),
                        .first_moment = state(first_moments, bucket),
                        .second_moment = state(second_moments, bucket),
                        .weights = own(parameters_.bucket_weights(bucket), bucket)};
    size_t excepted = 0;
    const Part& part = parts_[static_cast<size_t>(bucket)];
    for (const ShardRange& range : ranges_) {
      const ParameterInfo& info = parameters_.parameters()[range.parameter];
      if (info.bucket == bucket && info.initialization == Initialization::ones) {
        const int64_t begin = range.offset - part.shard_offset;
        args.without_decay.at(excepted++) = {begin, begin + range.end - range.begin};
      }
    }
    kernels::adamw(compute_, args);
    gather(bucket);
  }
}

void ShardedAdamW::gather(int bucket) {
  Event& done = weights_done_[static_cast<size_t>(bucket)];
  done.record(compute_);
  communication_.wait(done);
  const Tensor weights = parameters_.bucket_weights(bucket);
  communicator_.all_gather(communication_, own(weights, bucket), weights);
  done.record(communication_);
}

void ShardedAdamW::wait_for_weights(int bucket) {
  wait_for(weights_done_[static_cast<size_t>(bucket)]);
}

void ShardedAdamW::wait_for(const Event& collective) {
  if (communicator_.size() == 1) {
    compute_.wait(collective);
    return;
  }
  const ObservedCollective observed(compute_);
  compute_.wait(collective);
}

void ShardedAdamW::wait_for_all_weights() {
  for (int bucket = 0; bucket < parameters_.buckets(); ++bucket) {
    wait_for_weights(bucket);
  }
}

void ShardedAdamW::weights_from_masters() {
  for (int bucket = 0; bucket < parameters_.buckets(); ++bucket) {
    kernels::convert(compute_, {.input = state(masters, bucket),
                                .output = own(parameters_.bucket_weights(bucket), bucket)});
    gather(bucket);
    wait_for_weights(bucket);
  }
  compute_.synchronize();
}

void ShardedAdamW::copy_state(std::span<float> master, std::span<float> first,
                              std::span<float> second) {
  updated_.record(compute_);
  copies_.wait(updated_);
  const std::span<float> targets[states] = {master, first, second};
  for (size_t which = 0; which < states; ++which) {
    copy(copies_, whole_state(which),
         {targets[which].data(), DType::float32, Device::cpu, {shard_count_}});
  }
  state_copied_.record(copies_);
}

void ShardedAdamW::write_state(std::span<const float> master, std::span<const float> first,
                               std::span<const float> second) {
  const std::span<const float> sources[states] = {master, first, second};
  for (size_t which = 0; which < states; ++which) {
    copy(compute_, {sources[which].data(), DType::float32, Device::cpu, {shard_count_}},
         whole_state(which));
  }
  compute_.synchronize();
  weights_from_masters();
}

}  // namespace gsa
