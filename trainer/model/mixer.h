// A token mixer: the part of a block that mixes along the sequence. GSA is one; its relatives are
// others, chosen by `model.mixer`. A new one is a class of this interface (a header and a source
// file) and one line in the registry, mixer.cpp.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "trainer/config/config.h"
#include "trainer/model/linear.h"
#include "trainer/model/parameters.h"
#include "trainer/model/pass.h"

namespace gsa {

class TokenMixer {
 public:
  virtual ~TokenMixer() = default;

  // output = stream + the mixer of input, all [N, D]; pushes what backward needs, except the input
  // itself. `output` may be `stream`.
  virtual void forward(Pass& pass, ConstTensor input, ConstTensor stream, Tensor output) = 0;
  // grad_input [N, D] from grad_output [N, D]; pops what forward pushed. `input` gives forward's
  // input and is called once, when grad_input is complete and will not be touched again: the norm
  // that made the input then goes back, and where its output was not kept writes it anew, over
  // grad_input if it likes.
  virtual void backward(Pass& pass, const InputAgain& input, ConstTensor grad_output,
                        Tensor grad_input) = 0;

  // stream [S, D] += the mixer's output for norm(stream), one token a sequence from and to
  // pass.states: what forward does in the recurrent form, as operations that are added to `step`
  // (kernels/decode.h). What they leave for each other is kept on the tape.
  virtual void decode(Pass& pass, kernels::DecodeStep& step, const NormBefore& norm,
                      Tensor stream) = 0;

  // Dimensions of the state tensors of one sequence, without the sequence dimension; their size
  // does not depend on how much was read.
  virtual std::vector<Shape> state_shapes() const = 0;

  // Shape of the tokens that decode keeps in MixerState::kept where it is there; no dimensions: it
  // does not use it.
  virtual Shape kept_shape(int64_t /*sequences*/, int64_t /*period*/) const { return {}; }
};

// The mixer named by `config.mixer` for layer `layer`; declares its parameters under `prefix`
// ("model.layers.3.attn."). Throws ConfigError naming the known mixers.
std::unique_ptr<TokenMixer> make_mixer(const ModelConfig& config, int layer,
                                       const std::string& prefix, ParameterStore& parameters);

}  // namespace gsa
