// The parameters of a model: named views of flat buffers.
//
// Weights lie in one flat buffer in the dtype that the model computes in, gradients in another in
// float32 (float64 for float64 models), in the order of first use. The buffers are cut into
// *buckets* (the embedding, each block, the head): the unit in which gradients are reduced and
// weights gathered over the ranks. A bucket is padded to a multiple of the number of ranks, so that
// each rank owns one equal part of every bucket.
#pragma once

#include <string>
#include <vector>

#include "kernels/matmul.h"

namespace gsa {

class ParameterStore;

// How a parameter begins, and whether weight decay pulls on it.
enum class Initialization : uint8_t {
  normal,  // normal(0, init_std), decayed: matrices and the embedding
  ones     // not decayed: norms' weights
};

// How the first micro-batch of a step meets a gradient: products can write it, sums must add to
// zeros.
enum class FirstUse : uint8_t { written, added };

struct ParameterInfo {
  std::string name;  // as in published checkpoints
  Shape shape;
  Initialization initialization = Initialization::normal;
  FirstUse first_use = FirstUse::written;
  int bucket = 0;
  int64_t offset = 0;  // of its first element in the flat buffers
};

// A parameter, or adjacent matrices of one width seen as one ("q, k, v and f as one product").
// Default-constructed it is absent.
class Parameter {
 public:
  Parameter() = default;
  explicit operator bool() const { return store_ != nullptr; }
  ConstTensor weight() const;
  // To be added to. Matrices that products write whole say with `accumulate` how.
  Tensor gradient() const;
  // Whether the next product adds to the gradient or, the first time in a step, writes it: a
  // matrix's gradient need not be zeroed. Each call counts as a use.
  kernels::Accumulate accumulate() const;

 private:
  friend class ParameterStore;
  Parameter(ParameterStore* store, size_t first, size_t last)
      : store_(store), first_(first), last_(last) {}
  ParameterStore* store_ = nullptr;
  size_t first_ = 0;
  size_t last_ = 0;
};

class ParameterStore {
 public:
  // `compute` is the dtype of weights: float32, float64 or bfloat16. `ranks` decides the padding.
  ParameterStore(Device device, DType compute, int ranks);
  ParameterStore(const ParameterStore&) = delete;
  ParameterStore& operator=(const ParameterStore&) = delete;

  // Declaration, in the order of first use; the handles serve after `allocate`.
  void begin_bucket();
  Parameter add(const std::string& name, Shape shape, Initialization initialization,
                FirstUse first_use = FirstUse::written);
  // The matrices `first` to `last`, declared one after the other, as one matrix of all their rows.
  Parameter fuse(const Parameter& first, const Parameter& last);

  // Takes the memory, zeroed. With `planning`, takes none and hands out addresses never to be read.
  enum class Memory : uint8_t { real, planning, weights_only };
  // Where gradients lie: in memory of their own, or in the tail of the arena (trainer/model/tape.h)
  // for models whose gradients live from one backward pass to the update behind it.
  enum class Gradients : uint8_t { own, in_arena };
  void allocate(Memory memory, Gradients gradients = Gradients::own);

  bool gradients_in_arena() const { return where_ == Gradients::in_arena; }
  // Of the arena's tail: what the gradients take from this bucket's on to the last one's.
  size_t gradient_tail(int bucket) const;
  // The tail that holds them from now on ends here.
  void place_gradients(std::byte* tail_end);

  Device device() const { return device_; }
  DType compute_dtype() const { return compute_; }
  DType gradient_dtype() const {
    return compute_ == DType::float64 ? DType::float64 : DType::float32;
  }
  const std::vector<ParameterInfo>& parameters() const { return parameters_; }
  int64_t parameter_count() const;  // elements, without padding
  int64_t flat_count() const { return bucket_offsets_.back(); }

  int buckets() const { return static_cast<int>(bucket_offsets_.size()) - 1; }
  // Begins a step's gradients of this bucket: those that kernels add to are zeroed, those that
  // products write are marked to be overwritten by the first of them. Padding is zero: the buckets'
  // norms and sums over ranks go over it, and in the arena activations were there.
  void begin_gradients(Stream& stream, int bucket);

  int64_t bucket_offset(int bucket) const { return bucket_offsets_[static_cast<size_t>(bucket)]; }
  Tensor bucket_weights(int bucket) const;
  Tensor bucket_gradients(int bucket) const;
  Tensor all_weights() const;
  Tensor all_gradients() const;
  Tensor weight(size_t parameter) const;

 private:
  friend class Parameter;
  Tensor view(std::byte* base, DType dtype, size_t first, size_t last) const;
  void close_bucket();

  Device device_;
  DType compute_;
  int ranks_;
  Gradients where_ = Gradients::own;
  std::vector<ParameterInfo> parameters_;
  std::vector<int64_t> bucket_offsets_{0};  // after allocate: one more than there are buckets
  int64_t end_ = 0;
  bool open_ = false;
  std::vector<char> fresh_;  // by parameter: its gradient is to be overwritten
  Buffer weight_memory_;
  Buffer gradient_memory_;
  std::byte* weights_ = nullptr;
  std::byte* gradients_ = nullptr;
};

// The key of a parameter's initial numbers (kernels/normal.h), a function of (seed, name): its
// element i begins as element i of that stream, so that it does not depend on the number of ranks.
uint64_t initial_key(const ParameterInfo& parameter, int64_t seed);

}  // namespace gsa
