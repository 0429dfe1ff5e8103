// What travels with a pass through the model: where to queue work, where to keep things, which
// sequences the tokens belong to, and the states of generation.
#pragma once

#include <functional>

#include "kernels/decode.h"
#include "kernels/gsa.h"
#include "trainer/model/tape.h"

namespace gsa {

// What happens to parameters around a block's work: how the trainer overlaps communication with it,
// without the model knowing of ranks. Absent functions are not called.
struct BucketHooks {
  std::function<void(int bucket)> before_use;       // its weights are about to be read
  std::function<void(int bucket)> gradients_begin;  // its gradients are about to be written
  std::function<void(int bucket)> gradients_ready;  // its gradients are complete
};

// The states of one layer's mixer between calls, for generation. What they mean is the mixer's
// affair; GSA keeps [S, H_q, K, M] and [S, H_q, M, V]. With `kept`, decode steps need not write
// them every time: what they do not have yet is there, and only decode steps may go on from them.
struct MixerState {
  std::vector<Tensor> tensors;
  kernels::KeptTokens kept = {};
};

// How a mixer with states computes: whole sequences as in training, or a token a call.
enum class Form : uint8_t { chunked, recurrent };

// What a block keeps of its forward pass for backward.
enum class Keep : uint8_t { everything, norm_inputs, input, nothing };

// Gives a layer's input once more (see TokenMixer::backward).
using InputAgain = std::function<ConstTensor()>;

struct Pass {
  Stream& stream;
  Tape& tape;
  DType dtype;  // of activations
  kernels::Sequences sequences;
  Form form = Form::chunked;
  const BucketHooks* hooks = nullptr;
  std::vector<MixerState>* states = nullptr;  // one a layer: read, and written back
  bool keeps_norms = false;                   // the block that runs, its norms' outputs

  // Memory for a norm's output: kept, or only as long as `scratch`.
  Tensor norm_output(Tape::Scratch& scratch, const Shape& shape) const {
    return keeps_norms ? tape.allocate(dtype, shape) : scratch.tensor(dtype, shape);
  }
  // What backward finds of it on the tape: itself, or nothing.
  void push_norm_output(const Tensor& output) const { tape.push(keeps_norms ? output : Tensor()); }

  int64_t tokens() const { return sequences.tokens(); }
  // The dtype of statistics, gates and states.
  DType statistics() const { return dtype == DType::float64 ? DType::float64 : DType::float32; }

  void before_use(int bucket) const {
    if (hooks != nullptr && hooks->before_use) {
      hooks->before_use(bucket);
    }
  }
  void gradients_begin(int bucket) const {
    if (hooks != nullptr && hooks->gradients_begin) {
      hooks->gradients_begin(bucket);
    }
  }
  void gradients_ready(int bucket) const {
    if (hooks != nullptr && hooks->gradients_ready) {
      hooks->gradients_ready(bucket);
    }
  }
};

}  // namespace gsa
