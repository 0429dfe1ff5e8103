// The way out: logits = x W_head^T, and the loss without ever holding all logits.
//
// Rows are worked through in slices: a slice's logits are computed, turned into losses and, in
// place, into their gradient, and multiplied back at once. Nothing is kept.
#pragma once

#include "trainer/model/linear.h"
#include "trainer/model/parameters.h"
#include "trainer/model/pass.h"

namespace gsa {

class Head {
 public:
  // `weight` [W, D]: the output projection, or the tied embedding.
  explicit Head(Parameter weight) : weight_(weight) {}

  // logits [N, W] of input [N, D].
  void logits(Pass& pass, ConstTensor input, Tensor logits) const;
  // logits [S, W], float32 (float64 for float64 models), of norm(input), one token a sequence.
  void decode(kernels::DecodeStep& step, ConstTensor input, const NormBefore& norm,
              Tensor logits) const;
  // losses [N] (float32 or float64; 0 where the label is ignored).
  void loss(Pass& pass, ConstTensor input, ConstTensor labels, Tensor losses) const;
  // The same, with grad_input [N, D] and the weight's gradient of gradient_scale * sum(losses);
  // grad_input may be the input.
  void loss_and_gradient(Pass& pass, ConstTensor input, ConstTensor labels, double gradient_scale,
                         Tensor losses, Tensor grad_input) const;

 private:
  int64_t slice_rows(int64_t tokens) const;
  Parameter weight_;
};

}  // namespace gsa
