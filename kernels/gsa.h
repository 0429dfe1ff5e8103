// Gated slot attention (Zhang et al., arXiv 2409.07146): a linear-time token mixer with a memory of
// M slots a head, written and read by two gated linear attentions with a softmax between them.
//
// Per head, with forget gate alpha_t in (0,1)^M and s_t = 1 - alpha_t:
//
//   Kt_t = Kt_{t-1} Diag(alpha_t) + k_t s_t^T        [K x M]   slots' keys
//   u_t  = scale * Kt_t^T q_t,  p_t = softmax(u_t)    [M]
//   Vt_t = Diag(alpha_t) Vt_{t-1} + s_t v_t^T         [M x V]   slots' values
//   o_t  = Vt_t^T p_t                                 [V]
//
// Heads may be grouped: H divides H_q, and the H_q / H consecutive query heads h share key/value
// head h / (H_q / H) with its gate. States are per query head.
//
// Three forms with one signature compute it:
//   gsa_definition_*  the equations as they stand, every state kept: the reference (CPU)
//   gsa_recurrent_*   token by token in constant memory: generation, any T
//   gsa_chunked_*     chunks of `gsa_chunk` tokens as matrix products: training
//
// Backward, per head (each form states its own way to it; all compute this):
//
//   dVt_t = p_t do_t^T + Diag(alpha_{t+1}) dVt_{t+1}      dp_t = Vt_t do_t
//   dv_t  = dVt_t^T s_t                                    ds2_t = dVt_t v_t
//   du_t  = p_t * (dp_t - <p_t, dp_t>)
//   dKt_t = scale * q_t du_t^T + dKt_{t+1} Diag(alpha_{t+1})
//   dq_t  = scale * Kt_t du_t    dk_t = dKt_t s_t          ds1_t = dKt_t^T k_t
//
// and the gate, with no state-sized products: where b_t = sum_{i<=t} log alpha_i,
//
//   db_t = p_t * dp_t - s_t * ds2_t + u_t * du_t - s_t * ds1_t
//   dlog alpha_t = sum_{i>=t} db_i + (final states * their gradients, summed over K and V)
//                  - alpha_t * (ds1_t + ds2_t)
//
// Projected mode. With `gate_logits` f in place of `log_alpha`, the rows of q, k and v are
// projections of the hidden state, and the op does itself what lies between them and the equations
// above:
//
//   q, k, v = swish(q), swish(k), swish(v)      swish(x) = x sigmoid(x)
//   log alpha = logsigmoid(f) / gate_normalizer
//
// The gradients are then those of the projections and of the logits,
//
//   dx = swish'(x) * d swish(x)     df = sigmoid(-f) / gate_normalizer * dlog alpha
//
// and activated values need no memory: where a form has no kernel of its own for it, it puts them
// into its workspace with the operations of kernels/activation.h (kernels/gsa_projected.h).
//
// Sequences of any lengths lie back to back along the first dimension; states are per sequence.
#pragma once

#include <span>

#include "kernels/device.h"

namespace gsa::kernels {

// Tokens a chunk of the chunked form.
inline constexpr int64_t gsa_chunk = 64;

// Where sequences begin: sequence i is the tokens [offsets[i], offsets[i+1]).
struct Sequences {
  std::span<const int32_t> host;  // [S+1], host memory, host[0] = 0, not decreasing
  ConstTensor offsets;            // [S+1] int32: the same values on the device of the operation

  int64_t count() const { return static_cast<int64_t>(host.size()) - 1; }
  int64_t tokens() const { return host.back(); }
  int64_t chunks() const;  // sum over the sequences of ceil(length / gsa_chunk)
};

// Dtypes: q, k, v, gate_logits and output are of one dtype; log_alpha and all states are float32
// (float64 where q is). Rows of q, k, v, log_alpha, gate_logits, output and of the gradients may be
// strided: q, k, v and gate_logits may be columns of one product, and so may their gradients.
struct GsaForward {
  ConstTensor q;               // [N, H_q, K]
  ConstTensor k;               // [N, H, K]
  ConstTensor v;               // [N, H, V]
  ConstTensor log_alpha;       // [N, H, M], <= 0; or absent:
  ConstTensor gate_logits;     // [N, H, M]: q, k, v and these are projections, not yet activated
  double gate_normalizer = 8;  // of the logits
  Sequences sequences;         // N tokens in all
  double scale = 1;
  ConstTensor initial_key_state;    // [S, H_q, K, M], or absent: zero
  ConstTensor initial_value_state;  // [S, H_q, M, V], or absent: zero
  Tensor output;                    // [N, H_q, V]
  Tensor final_key_state;           // [S, H_q, K, M], or absent; may be the initial one
  Tensor final_value_state;         // [S, H_q, M, V], or absent; may be the initial one
  Tensor saved;  // bytes for the backward pass, gsa_chunked_saved_bytes of them, or absent

  int64_t query_heads() const { return q.dim(1); }
  int64_t heads() const { return k.dim(1); }
  int64_t key_dim() const { return k.dim(2); }
  int64_t value_dim() const { return v.dim(2); }
  int64_t slots() const { return gate().dim(2); }
  // Whether the op applies swish and the gate's function itself.
  bool projected() const { return bool(gate_logits); }
  // What the gate is made of: log_alpha or gate_logits.
  const ConstTensor& gate() const { return projected() ? gate_logits : log_alpha; }
  double flops() const;
  void check_inputs() const;  // all but the outputs
  void check() const;
};

struct GsaBackward {
  GsaForward forward;       // the inputs of the forward pass; of its outputs only `saved` is read
  ConstTensor grad_output;  // [N, H_q, V]
  ConstTensor grad_final_key_state;    // [S, H_q, K, M], or absent: zero
  ConstTensor grad_final_value_state;  // [S, H_q, M, V], or absent: zero
  Tensor grad_q;                       // [N, H_q, K]
  Tensor grad_k;                       // [N, H, K]
  Tensor grad_v;                       // [N, H, V]
  Tensor grad_log_alpha;               // [N, H, M], unless projected
  Tensor grad_gate_logits;             // [N, H, M], if projected: dtype of gate_logits
  Tensor grad_initial_key_state;       // [S, H_q, K, M], or absent: not wanted
  Tensor grad_initial_value_state;     // [S, H_q, M, V], or absent: not wanted

  double flops() const;
  void check() const;
};

void gsa_chunked_forward(Stream& stream, const GsaForward& args);
void gsa_chunked_backward(Stream& stream, const GsaBackward& args);
// Bytes that the chunked forward pass may keep for its backward pass on the tensors' device; the
// backward pass needs them if they were kept, and does without otherwise.
size_t gsa_chunked_saved_bytes(const GsaForward& args);

void gsa_recurrent_forward(Stream& stream, const GsaForward& args);
void gsa_recurrent_backward(Stream& stream, const GsaBackward& args);

// The reference: CPU tensors only, allocates what it needs (every state of every token).
void gsa_definition_forward(Stream& stream, const GsaForward& args);
void gsa_definition_backward(Stream& stream, const GsaBackward& args);

}  // namespace gsa::kernels
