#include "trainer/model/head.h"

#include <algorithm>

#include "kernels/cross_entropy.h"
#include "trainer/model/linear.h"

namespace gsa {
namespace {

// Logits that are held at once: enough rows for full-speed products, 256 MiB in bfloat16.
constexpr int64_t slice_elements = int64_t{128} << 20;
constexpr int64_t row_multiple = 128;

}  // namespace

int64_t Head::slice_rows(int64_t tokens) const {
  const int64_t vocabulary = weight_.weight().dim(0);
  const int64_t rows =
      std::max(row_multiple, slice_elements / vocabulary / row_multiple * row_multiple);
  return std::min(rows, tokens);
}

void Head::logits(Pass& pass, ConstTensor input, Tensor logits) const {
  linear_forward(pass, input, weight_, logits);
}

void Head::decode(kernels::DecodeStep& step, ConstTensor input, const NormBefore& norm,
                  Tensor logits) const {
  linear_decode(step, input, norm, weight_, kernels::DecodeActivation::none, logits);
}

void Head::loss(Pass& pass, ConstTensor input, ConstTensor labels, Tensor losses) const {
  const int64_t tokens = input.dim(0);
  const int64_t slice = slice_rows(tokens);
  for (int64_t begin = 0; begin < tokens; begin += slice) {
    const int64_t end = std::min(tokens, begin + slice);
    Tape::Scratch scratch(pass.tape);
    const Tensor logits = scratch.tensor(pass.dtype, {end - begin, weight_.weight().dim(0)});
    linear_forward(pass, input.rows(begin, end), weight_, logits);
    kernels::cross_entropy(
        pass.stream,
        {.labels = labels.rows(begin, end), .logits = logits, .losses = losses.rows(begin, end)});
  }
}

void Head::loss_and_gradient(Pass& pass, ConstTensor input, ConstTensor labels,
                             double gradient_scale, Tensor losses, Tensor grad_input) const {
  const int64_t tokens = input.dim(0);
  const int64_t slice = slice_rows(tokens);
  for (int64_t begin = 0; begin < tokens; begin += slice) {
    const int64_t end = std::min(tokens, begin + slice);
    Tape::Scratch scratch(pass.tape);
    const Tensor logits = scratch.tensor(pass.dtype, {end - begin, weight_.weight().dim(0)});
    linear_forward(pass, input.rows(begin, end), weight_, logits);
    kernels::cross_entropy(pass.stream, {.labels = labels.rows(begin, end),
                                         .gradient_scale = gradient_scale,
                                         .logits = logits,
                                         .losses = losses.rows(begin, end)});
    // Weights first: grad_input may lie over the input.
    linear_backward_weight(pass, input.rows(begin, end), weight_, logits);
    linear_backward_input(pass, weight_, logits, grad_input.rows(begin, end));
  }
}

}  // namespace gsa
