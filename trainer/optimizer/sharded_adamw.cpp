#include "trainer/optimizer/sharded_adamw.h"

#include <algorithm>

#include "kernels/optimizer.h"
#include "trainer/distributed/collective.h"
#include "trainer/optimizer/initial_weights.h"

namespace gsa {
namespace {

constexpr size_t moments = 2;
constexpr int64_t most_joined = int64_t{4} << 20;

int64_t joined_count(int64_t elements) {
  return std::min(elements, most_joined);
}

Tensor host(std::span<const float> values) {
  return {const_cast<float*>(values.data()),
          DType::float32,
          Device::cpu,
          {static_cast<int64_t>(values.size())}};
}

}  // namespace

ShardedAdamW::ShardedAdamW(const OptimizerConfig& config, ParameterStore& parameters,
                           Communicator& communicator, Stream& compute)
    : config_(config),
      parameters_(parameters),
      communicator_(communicator),
      open_(communicator, parameters.all_weights(),
            largest_part_bytes(parameters, communicator.size())),
      compute_(compute),
      communication_(parameters.device(), communicator.priority()),
      copies_(parameters.device()),
      dtype_(parameters.gradient_dtype()),
      splits_(parameters.compute_dtype() == DType::bfloat16),
      updated_(parameters.device()),
      state_copied_(parameters.device()) {
  lay_out();
  allocate_state();
  scalar_memory_ = Buffer(parameters.device(), 3 * sizeof(double));
  scalars_ = scalar_memory_.tensor(DType::float64, {3});
  for (int bucket = 0; bucket < parameters_.buckets(); ++bucket) {
    gradients_done_.emplace_back(parameters.device());
    weights_done_.emplace_back(parameters.device());
  }
}

size_t ShardedAdamW::element_bytes(DType weights, DType gradients) {
  return moments * size_of(gradients) +
         size_of(weights == DType::bfloat16 ? DType::int16 : gradients);
}

size_t ShardedAdamW::state_bytes(int64_t elements, DType weights, DType gradients) {
  const size_t joined =
      weights == DType::bfloat16 ? joined_count(elements) * size_of(DType::float32) : 0;
  return static_cast<size_t>(elements) * element_bytes(weights, gradients) + joined;
}

size_t ShardedAdamW::largest_part_bytes(const ParameterStore& parameters, int ranks) {
  int64_t most = 0;
  for (int bucket = 0; bucket < parameters.buckets(); ++bucket) {
    most = std::max(most, parameters.bucket_offset(bucket + 1) - parameters.bucket_offset(bucket));
  }
  return static_cast<size_t>(most / ranks) * size_of(parameters.gradient_dtype());
}

// The longer elements first: each begins at a multiple of its own size.
void ShardedAdamW::allocate_state() {
  state_memory_ =
      Buffer(parameters_.device(), state_bytes(shard_count_, parameters_.compute_dtype(), dtype_));
  size_t end = 0;
  const auto take = [&](DType dtype, int64_t count) {
    const Tensor tensor = state_memory_.tensor(dtype, {count}, end);
    end += tensor.bytes();
    return tensor;
  };
  first_moments_ = take(dtype_, shard_count_);
  second_moments_ = take(dtype_, shard_count_);
  if (splits_) {
    joined_ = take(DType::float32, joined_count(shard_count_));
    remainders_ = take(DType::int16, shard_count_);
  } else {
    masters_ = take(dtype_, shard_count_);
  }
  clear_state();
}

void ShardedAdamW::clear_state() {
  fill_zero(compute_,
            state_memory_.tensor(DType::byte, {static_cast<int64_t>(state_memory_.bytes())}));
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

Tensor ShardedAdamW::part(const Tensor& shard, int bucket) const {
  const Part& part = parts_[static_cast<size_t>(bucket)];
  return shard.rows(part.shard_offset, part.shard_offset + part.count);
}

void ShardedAdamW::initialize(int64_t seed, double init_std) {
  clear_state();
  InitialWeights(parameters_, seed, init_std).write(compute_, ranges_, incoming_masters());
  weights_from_masters();
  fill_zero(compute_, first_moments_);
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
                        .first_moment = part(first_moments_, bucket),
                        .second_moment = part(second_moments_, bucket),
                        .weights = own_weights(bucket)};
    if (splits_) {
      args.remainder = part(remainders_, bucket);
    } else {
      args.master = part(masters_, bucket);
    }
    size_t excepted = 0;
    const int64_t shard_offset = parts_[static_cast<size_t>(bucket)].shard_offset;
    for (const ShardRange& range : ranges_) {
      const ParameterInfo& info = parameters_.parameters()[range.parameter];
      if (info.bucket == bucket && info.initialization == Initialization::ones) {
        const int64_t begin = range.offset - shard_offset;
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
    const Tensor masters = part(incoming_masters(), bucket);
    if (splits_) {
      kernels::split_master(compute_, {.master = masters,
                                       .weights = own_weights(bucket),
                                       .remainder = part(remainders_, bucket)});
    } else {
      kernels::convert(compute_, {.input = masters, .output = own_weights(bucket)});
    }
    gather(bucket);
    wait_for_weights(bucket);
  }
  compute_.synchronize();
}

void ShardedAdamW::copy_state(std::span<float> master, std::span<float> first,
                              std::span<float> second) {
  updated_.record(compute_);
  copies_.wait(updated_);
  copy_masters(master);
  copy(copies_, first_moments_, host(first));
  copy(copies_, second_moments_, host(second));
  state_copied_.record(copies_);
}

void ShardedAdamW::copy_masters(std::span<float> target) {
  if (!splits_) {
    copy(copies_, masters_, host(target));
    return;
  }
  for (int bucket = 0; bucket < parameters_.buckets(); ++bucket) {
    const Tensor weights = own_weights(bucket);
    const Tensor remainders = part(remainders_, bucket);
    for (int64_t begin = 0; begin < weights.count(); begin += joined_.count()) {
      const int64_t count = std::min(joined_.count(), weights.count() - begin);
      const Tensor joined = joined_.rows(0, count);
      kernels::join_master(copies_, {.weights = weights.rows(begin, begin + count),
                                     .remainder = remainders.rows(begin, begin + count),
                                     .master = joined});
      const int64_t place = parts_[static_cast<size_t>(bucket)].shard_offset + begin;
      copy(copies_, joined,
           host(target.subspan(static_cast<size_t>(place), static_cast<size_t>(count))));
    }
  }
}

void ShardedAdamW::write_state(std::span<const float> master, std::span<const float> first,
                               std::span<const float> second) {
  copy(compute_, host(master), incoming_masters());
  weights_from_masters();
  copy(compute_, host(first), first_moments_);
  copy(compute_, host(second), second_moments_);
  compute_.synchronize();
}

}  // namespace gsa
