// A block of the residual stream: x += mixer(RMSNorm(x)), x += glu(RMSNorm(x)).
//
// The addition of a layer's output to the stream is fused with the norm that follows it, so between
// layers the stream is a sum and a summand that is still to be added (`ResidualStream`).
//
// Kept for backward: the stream before each norm with its statistics, and what the mixers keep.
// Computed again: the norms' outputs, on the norms' own way back; with Keep::input everything from
// the block's input.
#pragma once

#include <memory>
#include <string>

#include "trainer/model/glu_mixer.h"
#include "trainer/model/mixer.h"

namespace gsa {

// x = sum + pending. `transient` is memory for sums that nobody needs later.
struct ResidualStream {
  Tensor sum;      // [N, D]
  Tensor pending;  // [N, D] a layer's output, to be added by the next norm
  bool has_pending = false;
  Tensor transient;  // [N, D]
};

// What a forward pass keeps for backward.
enum class Keep : uint8_t { everything, input, nothing };

// RMSNorm in front of a layer, with the addition of what is pending.
class PreNorm {
 public:
  PreNorm(const ModelConfig& config, const std::string& name, ParameterStore& parameters);

  // The stream's new sum goes to `sum` (where something is pending), the norm to `output`.
  void forward(Pass& pass, ResidualStream& stream, Tensor sum, Tensor output,
               Tensor inverse_rms) const;
  // grad_sum = the gradient that reaches the stream through the norm, plus grad_stream where the
  // stream has one already (absent: the norm is its only way on). The norm's output once more goes
  // to `output` (absent, or over grad_output).
  void backward(Pass& pass, ConstTensor sum, ConstTensor inverse_rms, ConstTensor grad_output,
                ConstTensor grad_stream, Tensor output, Tensor grad_sum) const;
  // The norm as a decode step applies it, with the product behind it.
  NormBefore before_product() const;

 private:
  Parameter weight_;
  double epsilon_;
};

class Block {
 public:
  Block(const ModelConfig& config, int layer, ParameterStore& parameters);

  void forward(Pass& pass, ResidualStream& stream, Keep keep);
  // grad_stream [N, D]: the gradient of the block's output, turned into that of its input.
  // `spare` [N, D] is overwritten (Keep::input).
  void backward(Pass& pass, Tensor grad_stream, Tensor spare, Keep kept);

  // Adds operations that make stream [S, D] the block's output, one token a sequence from and to
  // pass.states.
  void decode(Pass& pass, kernels::DecodeStep& step, Tensor stream);

  std::vector<Shape> state_shapes() const { return mixer_->state_shapes(); }

 private:
  void run(Pass& pass, ResidualStream& stream, Tensor first_sum, Keep keep);
  // Backward of a norm and its layer: turns grad_stream from the gradient behind the layer into
  // that before its norm.
  template <typename Layer>
  static void backward_layer(Pass& pass, const PreNorm& norm, Layer& layer, Tensor grad_stream);

  PreNorm attn_norm_;
  std::unique_ptr<TokenMixer> mixer_;
  PreNorm mlp_norm_;
  GluMixer glu_;
};

}  // namespace gsa
