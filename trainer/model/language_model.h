// The language model: embedding, blocks, final norm, head; forward, backward, and generation.
//
//   x = E[tokens];  x = block_i(x);  logits = RMSNorm(x) W_head^T
//
// The model knows nothing of ranks, optimizers or data. Parameters are declared in the order of
// first use, one bucket for the embedding, one a block, one for the final norm with the head.
#pragma once

#include <memory>
#include <vector>

#include "trainer/model/block.h"
#include "trainer/model/head.h"

namespace gsa {

class LanguageModel {
 public:
  // Declares the parameters in `parameters`, which the caller then allocates. `keep` is any but
  // Keep::nothing.
  LanguageModel(const ModelConfig& config, ParameterStore& parameters,
                Keep keep = Keep::everything);

  const ModelConfig& config() const { return config_; }

  // One micro-batch: losses [N], and every parameter's gradient += that of
  // gradient_scale * sum(losses). tokens, labels [N] int32; labels of -100 do not count. Gradients
  // in the arena must be begun in pass.hooks: what lies there before them is activations.
  void forward_backward(Pass& pass, ConstTensor tokens, ConstTensor labels, double gradient_scale,
                        Tensor losses);

  // losses [N] without gradients.
  void loss(Pass& pass, ConstTensor tokens, ConstTensor labels, Tensor losses);

  // logits [N, W] of every token.
  void logits(Pass& pass, ConstTensor tokens, Tensor logits);

  // logits [S, W] of each sequence's last token, S sequences of at least one token. With
  // pass.states, sequences go on from them, and they are written back.
  void last_logits(Pass& pass, ConstTensor tokens, Tensor logits);

  // The same logits for one token a sequence, tokens [S], by the operations of a decode step:
  // logits are float32 (float64 for float64 models). Needs pass.states.
  void decode(Pass& pass, ConstTensor tokens, Tensor logits);

  // Shapes of the state tensors of every layer for `sequences` sequences.
  std::vector<std::vector<Shape>> state_shapes(int64_t sequences) const;
  // Shapes of the tokens that every layer's mixer may keep beside its states.
  std::vector<Shape> kept_shapes(int64_t sequences, int64_t period) const;

 private:
  // Final norm's output [N, D] of the tokens, nothing kept.
  void encode(Pass& pass, ConstTensor tokens, Tensor output);
  void backward_blocks(Pass& pass, ConstTensor tokens, Tensor gradient);
  void embed(Pass& pass, ConstTensor tokens, Tensor output) const;
  void begin_gradients(Pass& pass, int bucket) const;

  ModelConfig config_;
  const ParameterStore& parameters_;
  Keep keep_;
  Parameter embeddings_;
  std::vector<std::unique_ptr<Block>> blocks_;
  std::unique_ptr<PreNorm> norm_;
  std::unique_ptr<Head> head_;
};

}  // namespace gsa
