// The channel mixer: a gated linear unit, (swish(x Wgate^T) * (x Wup^T)) Wdown^T.
//
// Kept for backward: the products with Wgate and Wup (one product). Computed again: their
// activation.
#pragma once

#include <string>

#include "trainer/config/config.h"
#include "trainer/model/linear.h"
#include "trainer/model/parameters.h"
#include "trainer/model/pass.h"

namespace gsa {

class GluMixer {
 public:
  GluMixer(const ModelConfig& config, const std::string& prefix, ParameterStore& parameters);

  // As of TokenMixer; without an output, only what backward needs.
  void forward(Pass& pass, ConstTensor input, ConstTensor stream, Tensor output);
  void backward(Pass& pass, const InputAgain& input, ConstTensor grad_output, Tensor grad_input);
  // stream [S, D] += the layer's output for norm(stream), one token a sequence.
  void decode(Pass& pass, kernels::DecodeStep& step, const NormBefore& norm, Tensor stream);

 private:
  int64_t intermediate_;
  Parameter gate_up_proj_;
  Parameter down_proj_;
};

}  // namespace gsa
