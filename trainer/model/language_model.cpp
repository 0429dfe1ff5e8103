#include "trainer/model/language_model.h"

#include "kernels/embedding.h"

namespace gsa {
namespace {

constexpr int embedding_bucket = 0;
int block_bucket(size_t block) {
  return static_cast<int>(block) + 1;
}

}  // namespace

LanguageModel::LanguageModel(const ModelConfig& config, ParameterStore& parameters, Keep keep)
    : config_(config), parameters_(parameters), keep_(keep) {
  parameters.begin_bucket();
  embeddings_ = parameters.add("model.embeddings.weight", {config.vocabulary, config.hidden},
                               Initialization::normal, FirstUse::added);
  for (int layer = 0; layer < config.layers; ++layer) {
    parameters.begin_bucket();
    blocks_.push_back(std::make_unique<Block>(config, layer, parameters));
  }
  parameters.begin_bucket();
  norm_ = std::make_unique<PreNorm>(config, "model.norm", parameters);
  head_ = std::make_unique<Head>(
      config.tie_embeddings ? embeddings_
                            : parameters.add("lm_head.weight", {config.vocabulary, config.hidden},
                                             Initialization::normal));
}

void LanguageModel::embed(Pass& pass, ConstTensor tokens, Tensor output) const {
  pass.before_use(embedding_bucket);
  kernels::embedding_forward(pass.stream,
                             {.tokens = tokens, .table = embeddings_.weight(), .output = output});
}

void LanguageModel::begin_gradients(Pass& pass, int bucket) const {
  if (parameters_.gradients_in_arena()) {
    pass.tape.claim_tail(parameters_.gradient_tail(bucket));
  }
  pass.gradients_begin(bucket);
}

void LanguageModel::forward_backward(Pass& pass, ConstTensor tokens, ConstTensor labels,
                                     double gradient_scale, Tensor losses) {
  Tape& tape = pass.tape;
  const Shape shape{tokens.dim(0), config_.hidden};
  tape.begin_frame();
  Tensor stream = tape.allocate(pass.dtype, shape);
  embed(pass, tokens, stream);
  for (size_t i = 0; i < blocks_.size(); ++i) {
    pass.before_use(block_bucket(i));
    tape.begin_frame();
    const Tensor output = tape.allocate(pass.dtype, shape);
    blocks_[i]->forward(pass, stream, output, keep_);
    stream = output;
  }

  const int head_bucket = block_bucket(blocks_.size());
  pass.before_use(head_bucket);
  begin_gradients(pass, head_bucket);
  if (config_.tie_embeddings) {
    begin_gradients(pass, embedding_bucket);
  }
  Tape::Scratch scratch(tape);
  const Tensor gradient = scratch.tensor(pass.dtype, shape);
  {
    Tape::Scratch inner(tape);
    const Tensor normalized = inner.tensor(pass.dtype, shape);
    const Tensor inverse_rms = inner.tensor(pass.statistics(), {tokens.dim(0)});
    norm_->forward(pass, stream, normalized, inverse_rms);
    head_->loss_and_gradient(pass, normalized, labels, gradient_scale, losses, normalized);
    norm_->backward(pass, stream, inverse_rms, normalized, {}, {}, gradient);
  }
  pass.gradients_ready(head_bucket);
  backward_blocks(pass, tokens, gradient);
  tape.end_frame();
}

void LanguageModel::backward_blocks(Pass& pass, ConstTensor tokens, Tensor gradient) {
  for (size_t i = blocks_.size(); i-- > 0;) {
    begin_gradients(pass, block_bucket(i));
    blocks_[i]->backward(pass, gradient, keep_);
    pass.tape.end_frame();
    pass.gradients_ready(block_bucket(i));
  }
  if (!config_.tie_embeddings) {
    begin_gradients(pass, embedding_bucket);
  }
  kernels::embedding_backward(
      pass.stream,
      {.tokens = tokens, .grad_output = gradient, .grad_table = embeddings_.gradient()});
  pass.gradients_ready(embedding_bucket);
}

void LanguageModel::encode(Pass& pass, ConstTensor tokens, Tensor output) {
  Tape::Scratch scratch(pass.tape);
  const Tensor stream = scratch.tensor(pass.dtype, {tokens.dim(0), config_.hidden});
  embed(pass, tokens, stream);
  for (size_t i = 0; i < blocks_.size(); ++i) {
    pass.before_use(block_bucket(i));
    blocks_[i]->forward(pass, stream, stream, Keep::nothing);
  }
  pass.before_use(block_bucket(blocks_.size()));
  const Tensor inverse_rms = scratch.tensor(pass.statistics(), {tokens.dim(0)});
  norm_->forward(pass, stream, output, inverse_rms);
}

void LanguageModel::loss(Pass& pass, ConstTensor tokens, ConstTensor labels, Tensor losses) {
  Tape::Scratch scratch(pass.tape);
  const Tensor encoded = scratch.tensor(pass.dtype, {tokens.dim(0), config_.hidden});
  encode(pass, tokens, encoded);
  head_->loss(pass, encoded, labels, losses);
}

void LanguageModel::logits(Pass& pass, ConstTensor tokens, Tensor logits) {
  Tape::Scratch scratch(pass.tape);
  const Tensor encoded = scratch.tensor(pass.dtype, {tokens.dim(0), config_.hidden});
  encode(pass, tokens, encoded);
  head_->logits(pass, encoded, logits);
}

void LanguageModel::last_logits(Pass& pass, ConstTensor tokens, Tensor logits) {
  Tape::Scratch scratch(pass.tape);
  const Tensor encoded = scratch.tensor(pass.dtype, {tokens.dim(0), config_.hidden});
  encode(pass, tokens, encoded);
  const int64_t sequences = pass.sequences.count();
  if (sequences == tokens.dim(0)) {
    head_->logits(pass, encoded, logits);
    return;
  }
  const Tensor last = scratch.tensor(pass.dtype, {sequences, config_.hidden});
  for (int64_t i = 0; i < sequences; ++i) {
    const int64_t end = pass.sequences.host[static_cast<size_t>(i) + 1];
    copy(pass.stream, encoded.rows(end - 1, end), last.rows(i, i + 1));
  }
  head_->logits(pass, last, logits);
}

void LanguageModel::decode(Pass& pass, ConstTensor tokens, Tensor logits) {
  pass.tape.begin_frame();
  const Tensor stream = pass.tape.allocate(pass.dtype, {tokens.dim(0), config_.hidden});
  embed(pass, tokens, stream);
  kernels::DecodeStep step;
  for (size_t i = 0; i < blocks_.size(); ++i) {
    pass.before_use(block_bucket(i));
    blocks_[i]->decode(pass, step, stream);
  }
  pass.before_use(block_bucket(blocks_.size()));
  head_->decode(step, stream, norm_->before_product(), logits);
  kernels::decode_step(pass.stream, step);
  pass.tape.end_frame();
}

std::vector<std::vector<Shape>> LanguageModel::state_shapes(int64_t sequences) const {
  std::vector<std::vector<Shape>> all;
  for (const auto& block : blocks_) {
    std::vector<Shape> shapes;
    for (const Shape& one : block->state_shapes()) {
      shapes.push_back({sequences, one[0], one[1], one[2]});
    }
    all.push_back(shapes);
  }
  return all;
}

std::vector<Shape> LanguageModel::kept_shapes(int64_t sequences, int64_t period) const {
  std::vector<Shape> all;
  for (const auto& block : blocks_) {
    all.push_back(block->kept_shape(sequences, period));
  }
  return all;
}

}  // namespace gsa
