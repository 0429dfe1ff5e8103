// The operations of a decode step: one token a sequence, where a product's cost is reading its
// weights. Each does in one pass what training does in several operations: the norm before a
// product, the activation or the residual addition behind it, and the activations around the
// recurrent GSA step.
//
// On CUDA these overlap with what comes before them on the stream: weights, and in gsa_decode the
// states and the tokens kept, are read ahead. A step therefore begins with another operation (the
// embedding), and goes through each layer's states once.
//
// Rows are sequences. A row's result has the same bits whatever other rows there are (on CUDA among
// up to eight, and in bfloat16 among nine to 64 where K is up to 5632), so that a text does not
// depend on the batch that it is written in.
#pragma once

#include <variant>
#include <vector>

#include "kernels/device.h"

namespace gsa::kernels {

// What happens to the input before the product.
enum class DecodeNorm : uint8_t {
  none,     // x = input
  rms_norm  // x = RMSNorm(input)
};

// What happens to the product y = x weight^T.
enum class DecodeActivation : uint8_t {
  none,   // output = y, or residual + y
  swiglu  // output = swish(gate) * up: gate is the first half of y's columns, up the second
};

// On CUDA, up to eight rows, and in bfloat16 up to 64 where K is a multiple of 64 from 256 to 5632,
// the norm is applied around the product: x = input * norm_weight is rounded to the weights' dtype,
// and 1 / rms multiplies the float32 sums.
struct DecodeLinear {
  ConstTensor input;  // [B, K]
  DecodeNorm norm = DecodeNorm::none;
  ConstTensor norm_weight;  // [K], or absent: ones
  double epsilon = 1e-6;
  ConstTensor weight;  // [N, K], contiguous; [2N, K] with swiglu
  DecodeActivation activation = DecodeActivation::none;
  ConstTensor residual;  // [B, N] added to the product, or absent; not with swiglu
  Tensor output;         // [B, N] of the input's dtype or float32; may be `residual`

  double flops() const {
    return 2.0 * double(input.dim(0)) * double(weight.dim(0)) * double(weight.dim(1));
  }
  void check() const;
};

// Up to how many sequences a step may be one kernel on CUDA.
inline constexpr int64_t decode_few_sequences = 8;

// The tokens that a layer's states do not have yet. States are written only in the steps n where
// (n + offset) % period = period - 1, n = 0, 1, ... from where they were complete; in the others
// the step's token is kept beside them, as it was projected, and with b_i = log alpha_1 + ... +
// log alpha_i over the j tokens since the states K_0, V_0 were written, this step's the last,
//
//   u = e^{b_j} * (K_0^T q) + sum_i e^{b_j - b_i} (1 - alpha_i) <k_i, q>,  p = softmax(scale * u)
//   o = V_0^T (p * e^{b_j}) + sum_i <p, e^{b_j - b_i} (1 - alpha_i)> v_i
//
// Layers with different offsets write in different steps.
struct KeptTokens {
  Tensor rows;  // of `shape`: a head's k, v and gate columns of `projected` side by side; or absent
  ConstTensor step;    // [1] int32, on the device: n; count_step has it go on between steps
  int64_t offset = 0;  // 0 or more

  explicit operator bool() const { return bool(rows); }
  int64_t period() const { return rows.dim(2) + 1; }
  // [B, H, period - 1, K + V + M], the last rounded up so that each row begins at 16 bytes.
  static Shape shape(int64_t sequences, int64_t heads, int64_t period, int64_t key_dim,
                     int64_t value_dim, int64_t slots) {
    constexpr int64_t together = 8;
    const int64_t columns = key_dim + value_dim + slots;
    return {sequences, heads, period - 1, (columns + together - 1) / together * together};
  }
};

// One token of gated slot attention (kernels/gsa.h) a sequence, from the projections:
//   q, k, v = swish of their columns;  log alpha = logsigmoid(gate columns) / gate_normalizer
// States go on in place, at once or with `kept` every few steps. Grouped heads as in kernels/gsa.h.
// The output is swish(o), which the norm behind it takes.
struct GsaDecode {
  ConstTensor projected;  // [B, H_q*K + H*K + H*V + H*M]: q, k, v, gate side by side
  int64_t query_heads = 1;
  int64_t heads = 1;
  double gate_normalizer = 8;
  double scale = 1;
  Tensor key_state;      // [B, H_q, K, M] float32 (float64 if projected is)
  Tensor value_state;    // [B, H_q, M, V]
  KeptTokens kept = {};  // absent: the states are written in every step
  Tensor output;         // [B, H_q * V]

  int64_t key_dim() const { return key_state.dim(2); }
  int64_t slots() const { return key_state.dim(3); }
  int64_t value_dim() const { return value_state.dim(3); }
  double flops() const { return 4.0 * double(key_state.count() + value_state.count()); }
  void check() const;
};

// The operations of a step, of the same sequences, one after the other. On CUDA up to eight
// sequences in bfloat16 are one kernel that reads ahead the weights of all of them, wherever it
// takes every operation's sizes and no tokens are kept (kernels/cuda/decode_step.cu). No
// operation's input is its output; the memory that they leave results in for each other is in use
// until the last one has run.
struct DecodeStep {
  std::vector<std::variant<DecodeLinear, GsaDecode>> operations;

  double flops() const;
  void check() const;
};

// step[0] += 1, behind all that came before: once a step, for all layers.
struct CountStep {
  Tensor step;  // [1] int32

  void check() const;
};

void decode_linear(Stream& stream, const DecodeLinear& args);
void gsa_decode(Stream& stream, const GsaDecode& args);
void decode_step(Stream& stream, const DecodeStep& args);
void count_step(Stream& stream, const CountStep& args);

}  // namespace gsa::kernels
