// Text by the recurrent form: prompts are read in one chunked pass, then a token at a time; the
// state is constant in size however long the text grows.
//
// A step, with the choice of its tokens, stays on the device: it is recorded once and replayed, and
// the next one runs while the host looks at the tokens of the last.
#pragma once

#include <array>
#include <memory>
#include <span>
#include <vector>

#include "kernels/captured_work.h"
#include "kernels/sampling.h"
#include "trainer/model/engine.h"

namespace gsa {

// How a step is computed: by the operations made for it (kernels/decode.h), or as the model's
// forward pass in the recurrent form, which the former are held to.
enum class StepForm : uint8_t { decode, recurrent };

struct GeneratorOptions {
  int64_t sequences = 1;  // texts side by side
  kernels::SamplingOptions sampling;
  int64_t first_sequence = 0;  // the number of the first text: with the seed, it decides its draws
  int64_t choices = 0;         // tokens below this may be drawn; 0: all of the vocabulary
  StepForm form = StepForm::decode;
  int64_t state_period = 0;  // a decode step in so many writes a layer's states; 0: as fits
};

class Generator {
 public:
  // The engine needs weights only, and must outlive the generator; while texts are written, nobody
  // else makes its arena larger. Throws std::invalid_argument for options out of range.
  Generator(Engine& engine, const GeneratorOptions& options);

  // Reads prompts (at least one token each) into fresh states. Returns the logits [S, W] of the
  // token after each prompt, in float32.
  std::span<const float> read(const std::vector<std::vector<int32_t>>& prompts);
  // Goes on by one token a sequence.
  std::span<const float> step(std::span<const int32_t> tokens);

  // Reads prompts and begins to draw: `next` gives the first token after each, then each one that
  // follows. The same seed gives the same text; steps do so in whatever batch a sequence is, on
  // CUDA in batches of one kind (kernels/decode.h). A prompt's products may round differently
  // beside others.
  void start(const std::vector<std::vector<int32_t>>& prompts);
  std::span<const int32_t> next();

  // Bytes of the states of all sequences, with the tokens kept beside them.
  size_t state_bytes() const { return state_memory_.bytes(); }
  // Decode steps from one writing of a layer's states to the next.
  int64_t state_period() const { return options_.state_period; }

 private:
  int64_t fitting_period() const;
  void allocate_states();
  void allocate_vectors();
  void queue_prompts(const std::vector<std::vector<int32_t>>& prompts);
  void queue_step(LanguageModel& model, Pass& pass);
  void convert_logits(Stream& stream);
  void queue_draw(Stream& stream);
  void publish();
  Pass step_pass();
  kernels::Sequences step_sequences() const;
  std::span<const float> download();

  Engine& engine_;
  GeneratorOptions options_;
  Buffer state_memory_;  // all zero before a prompt
  std::vector<MixerState> states_;
  Tensor step_;  // [1] int32: decode steps since the prompt; absent if every one writes all states
  Buffer input_memory_;  // prompts' tokens, then offsets
  std::vector<int32_t> input_;

  Buffer vector_memory_;               // [S] each: tokens, positions; [S+1]: offsets
  Tensor tokens_;                      // the last ones, input of the next step
  Tensor positions_;                   // of the next draw
  Tensor step_offsets_;                // 0, 1, ..., S
  std::vector<int32_t> host_offsets_;  // the same
  Buffer logit_memory_;
  Tensor logits_;        // [S, W] float32
  Tensor model_logits_;  // the same in the model's dtype
  std::vector<float> host_logits_;

  // Draws that the host may read, draw n in row n mod slots: two, so that one may be read while the
  // next is made.
  static constexpr size_t slots = 2;
  std::unique_ptr<CapturedWork> next_step_;
  Buffer drawn_memory_;  // pinned
  Tensor drawn_;         // [slots, S] int32
  std::array<Event, slots> drawn_events_;
  size_t published_ = 0;
  size_t taken_ = 0;
  std::vector<int32_t> result_;
};

}  // namespace gsa
