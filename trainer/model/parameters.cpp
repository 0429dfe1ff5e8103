#include "trainer/model/parameters.h"

#include <numeric>
#include <utility>

#include "kernels/normal.h"

namespace gsa {
namespace {

// Elements that every parameter and every rank's part of a bucket is a multiple of: 16-byte
// accesses in bfloat16 with room to spare.
constexpr int64_t element_alignment = 16;
constexpr int64_t gradient_alignment = 256;  // of all of them, in bytes
const auto planning_base = reinterpret_cast<std::byte*>(size_t{1} << 12);  // NOLINT

int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

uint64_t hash_name(const std::string& name) {
  uint64_t hash = 0xCBF29CE484222325ULL;  // FNV-1a
  for (const char c : name) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3ULL;
  }
  return hash;
}

}  // namespace

ConstTensor Parameter::weight() const {
  if (store_ == nullptr) {
    return {};
  }
  return store_->view(store_->weights_, store_->compute_, first_, last_);
}

Tensor Parameter::gradient() const {
  if (store_ == nullptr) {
    return {};
  }
  return store_->view(store_->gradients_, store_->gradient_dtype(), first_, last_);
}

kernels::Accumulate Parameter::accumulate() const {
  char& fresh = store_->fresh_[first_];
  return std::exchange(fresh, char{0}) != 0 ? kernels::Accumulate::no : kernels::Accumulate::yes;
}

ParameterStore::ParameterStore(Device device, DType compute, int ranks)
    : device_(device), compute_(compute), ranks_(ranks) {}

void ParameterStore::close_bucket() {
  if (open_) {
    end_ = round_up(end_, element_alignment * ranks_);
    bucket_offsets_.push_back(end_);
    open_ = false;
  }
}

void ParameterStore::begin_bucket() {
  close_bucket();
  open_ = true;
}

Parameter ParameterStore::add(const std::string& name, Shape shape, Initialization initialization,
                              FirstUse first_use) {
  const int bucket = static_cast<int>(bucket_offsets_.size()) - 1;
  const FirstUse use = initialization == Initialization::ones ? FirstUse::added : first_use;
  parameters_.push_back({name, shape, initialization, use, bucket, end_});
  end_ = round_up(end_ + shape.count(), element_alignment);
  return {this, parameters_.size() - 1, parameters_.size() - 1};
}

Parameter ParameterStore::fuse(const Parameter& first, const Parameter& last) {
  for (size_t i = first.first_; i < last.last_; ++i) {
    const ParameterInfo& here = parameters_[i];
    const ParameterInfo& next = parameters_[i + 1];
    if (here.shape.rank() != 2 || next.shape.rank() != 2 || here.shape[1] != next.shape[1] ||
        here.offset + here.shape.count() != next.offset) {
      throw std::logic_error(here.name + " and " + next.name + " do not lie as one matrix");
    }
  }
  return {this, first.first_, last.last_};
}

void ParameterStore::allocate(Memory memory, Gradients gradients) {
  close_bucket();
  where_ = gradients;
  fresh_.assign(parameters_.size(), 0);
  if (memory == Memory::planning) {
    weights_ = planning_base;
    gradients_ = planning_base;
    return;
  }
  Stream stream(device_);
  weight_memory_ = Buffer(device_, static_cast<size_t>(end_) * size_of(compute_));
  weights_ = weight_memory_.data();
  fill_zero(stream, all_weights());
  if (memory == Memory::real && where_ == Gradients::own) {
    gradient_memory_ = Buffer(device_, static_cast<size_t>(end_) * size_of(gradient_dtype()));
    gradients_ = gradient_memory_.data();
    fill_zero(stream, all_gradients());
  }
  stream.synchronize();
}

size_t ParameterStore::gradient_tail(int bucket) const {
  const auto bytes = static_cast<int64_t>(size_of(gradient_dtype()));
  return static_cast<size_t>(round_up(end_ * bytes, gradient_alignment) -
                             bucket_offset(bucket) * bytes);
}

void ParameterStore::place_gradients(std::byte* tail_end) {
  gradients_ = tail_end - gradient_tail(0);
}

void ParameterStore::begin_gradients(Stream& stream, int bucket) {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const ParameterInfo& info = parameters_[i];
    if (info.bucket != bucket) {
      continue;
    }
    fresh_[i] = info.first_use == FirstUse::written ? 1 : 0;
    if (info.first_use == FirstUse::added) {
      fill_zero(stream, view(gradients_, gradient_dtype(), i, i));
    }
    const bool is_last = i + 1 == parameters_.size() || parameters_[i + 1].bucket != bucket;
    const int64_t end = info.offset + info.shape.count();
    const int64_t next = is_last ? bucket_offset(bucket + 1) : parameters_[i + 1].offset;
    if (where_ == Gradients::in_arena && next > end) {
      fill_zero(stream, all_gradients().rows(end, next));
    }
  }
}

int64_t ParameterStore::parameter_count() const {
  return std::accumulate(
      parameters_.begin(), parameters_.end(), int64_t{0},
      [](int64_t sum, const ParameterInfo& info) { return sum + info.shape.count(); });
}

Tensor ParameterStore::view(std::byte* base, DType dtype, size_t first, size_t last) const {
  if (base == nullptr) {
    throw std::logic_error("the memory of " + parameters_[first].name + " was not allocated");
  }
  Shape shape = parameters_[first].shape;
  if (last > first) {
    int64_t rows = 0;
    for (size_t i = first; i <= last; ++i) {
      rows += parameters_[i].shape[0];
    }
    shape = {rows, shape[1]};
  }
  return {base + parameters_[first].offset * int64_t(size_of(dtype)), dtype, device_, shape};
}

Tensor ParameterStore::bucket_weights(int bucket) const {
  return all_weights().rows(bucket_offset(bucket), bucket_offset(bucket + 1));
}

Tensor ParameterStore::bucket_gradients(int bucket) const {
  return all_gradients().rows(bucket_offset(bucket), bucket_offset(bucket + 1));
}

Tensor ParameterStore::all_weights() const {
  return {weights_, compute_, device_, {end_}};
}

Tensor ParameterStore::all_gradients() const {
  return {gradients_, gradient_dtype(), device_, {end_}};
}

Tensor ParameterStore::weight(size_t parameter) const {
  return view(weights_, compute_, parameter, parameter);
}

uint64_t initial_key(const ParameterInfo& parameter, int64_t seed) {
  return kernels::mix_bits(static_cast<uint64_t>(seed)) ^ hash_name(parameter.name);
}

}  // namespace gsa
