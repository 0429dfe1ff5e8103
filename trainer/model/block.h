// A block of the residual stream: x += mixer(RMSNorm(x)), x += glu(RMSNorm(x)).
//
// The addition is fused with the last product of the layer, before its result is rounded.
//
// Kept for backward: the stream before each norm with its statistics, the norm's output, and what
// the mixers keep. With Keep::norm_inputs norms' outputs are computed again, on the norms' own way
// back; with Keep::input everything is, from the block's input.
#pragma once

#include <memory>
#include <string>

#include "trainer/model/glu_mixer.h"
#include "trainer/model/mixer.h"

namespace gsa {

// RMSNorm in front of a layer.
class PreNorm {
 public:
  PreNorm(const ModelConfig& config, const std::string& name, ParameterStore& parameters);

  void forward(Pass& pass, ConstTensor stream, Tensor output, Tensor inverse_rms) const;
  // grad_input = the gradient that reaches the stream through the norm, plus grad_stream where the
  // stream has one already (absent: the norm is its only way on). The norm's output once more goes
  // to `output` (absent, or over grad_output).
  void backward(Pass& pass, ConstTensor stream, ConstTensor inverse_rms, ConstTensor grad_output,
                ConstTensor grad_stream, Tensor output, Tensor grad_input) const;
  // The norm as a decode step applies it, with the product behind it.
  NormBefore before_product() const;

 private:
  Parameter weight_;
  double epsilon_;
};

class Block {
 public:
  Block(const ModelConfig& config, int layer, ParameterStore& parameters);

  // `output` [N, D] of the stream `input` [N, D], over it if nothing is kept. What is kept lies in
  // the tape's current frame, and `input` stays where it is until backward has run.
  void forward(Pass& pass, Tensor input, Tensor output, Keep keep);
  // grad_stream [N, D]: the gradient of the block's output, turned into that of its input.
  void backward(Pass& pass, Tensor grad_stream, Keep kept);

  // Adds operations that make stream [S, D] the block's output, one token a sequence from and to
  // pass.states.
  void decode(Pass& pass, kernels::DecodeStep& step, Tensor stream);

  std::vector<Shape> state_shapes() const { return mixer_->state_shapes(); }
  Shape kept_shape(int64_t sequences, int64_t period) const {
    return mixer_->kept_shape(sequences, period);
  }

 private:
  // Between the layers the stream goes to `middle`; without `output` no further than backward
  // needs.
  void run(Pass& pass, Tensor input, Tensor middle, Tensor output);
  // output = stream + layer(norm(stream)).
  template <typename Layer>
  static void run_layer(Pass& pass, const PreNorm& norm, Layer& layer, Tensor stream,
                        Tensor output);
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
