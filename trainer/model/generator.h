// Text by the recurrent form: prompts are read in one chunked pass, then a token at a time; the
// state is constant in size however long the text grows.
#pragma once

#include <span>
#include <vector>

#include "trainer/model/engine.h"

namespace gsa {

class Generator {
 public:
  // For `sequences` texts side by side. The engine needs weights only.
  Generator(Engine& engine, int64_t sequences);

  // Reads prompts (at least one token each) into fresh states. Returns the logits [S, W] of the
  // token after each prompt, in float32.
  std::span<const float> read(const std::vector<std::vector<int32_t>>& prompts);
  // Goes on by one token a sequence.
  std::span<const float> step(std::span<const int32_t> tokens);

  // Bytes of the states of all sequences.
  size_t state_bytes() const { return state_memory_.bytes(); }

 private:
  std::span<const float> run(std::span<const int32_t> tokens, Form form);
  void set_offsets(std::vector<int32_t> offsets);

  Engine& engine_;
  int64_t sequences_;
  Buffer state_memory_;
  std::vector<MixerState> states_;
  Buffer input_memory_;  // tokens, then offsets
  int64_t input_capacity_ = 0;
  std::vector<int32_t> offsets_;
  Buffer logit_memory_;  // in the model's dtype
  Buffer float_memory_;  // in float32
  std::vector<float> logits_;
};

}  // namespace gsa
