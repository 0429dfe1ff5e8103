// Gated slot attention as it is defined: token by token, every state kept, plain loops. It is what
// the other forms are held against, so nothing here is clever: the gate's gradient, for one, is
// taken from the states themselves and not from the identity that the other forms use.
#include <algorithm>
#include <vector>

#include "kernels/cpu/gsa_activations.h"
#include "kernels/cpu/gsa_view.h"

namespace gsa::kernels {
namespace {

using cpu::GsaGradients;
using cpu::GsaInputs;
using cpu::GsaSizes;

void require_cpu(const GsaForward& args) {
  if (args.q.device() != Device::cpu) {
    throw std::invalid_argument(
        "gsa_definition computes on the CPU only: copy the tensors there, or use gsa_chunked");
  }
}

// Everything that one head of one sequence goes through, token by token.
template <typename T>
struct History {
  std::vector<T> key;    // [T + 1, K, M]: before the first token, and after each
  std::vector<T> value;  // [T + 1, M, V]
  std::vector<T> alpha;  // [T, M]
  std::vector<T> write;  // [T, M], 1 - alpha
  std::vector<T> p;      // [T, M]
};

// The states before the first token.
template <typename T>
History<T> begin_history(const GsaInputs<T>& in, int64_t sequence, int64_t head, int64_t length) {
  const GsaSizes& sizes = in.sizes;
  History<T> history;
  history.key.resize(static_cast<size_t>((length + 1) * sizes.key_state()));
  history.value.resize(static_cast<size_t>((length + 1) * sizes.value_state()));
  history.alpha.resize(static_cast<size_t>(length * sizes.slots));
  history.write.resize(history.alpha.size());
  history.p.resize(history.alpha.size());
  if (in.initial_key != nullptr) {
    std::copy_n(in.initial_key + in.key_offset(sequence, head), sizes.key_state(),
                history.key.data());
  }
  if (in.initial_value != nullptr) {
    std::copy_n(in.initial_value + in.value_offset(sequence, head), sizes.value_state(),
                history.value.data());
  }
  return history;
}

// Key state and p of token t, the t-th of its sequence.
template <typename T>
void attend_keys(const GsaInputs<T>& in, int64_t token, int64_t t, int64_t head,
                 History<T>& history) {
  const int64_t slots = in.sizes.slots;
  const T* q = in.q.at(token, head);
  const T* k = in.k.at(token, head / in.sizes.group);
  const T* log_alpha = in.log_alpha.at(token, head / in.sizes.group);
  const T* before = history.key.data() + t * in.sizes.key_state();
  T* after = history.key.data() + (t + 1) * in.sizes.key_state();
  T* alpha = history.alpha.data() + t * slots;
  T* write = history.write.data() + t * slots;
  T* p = history.p.data() + t * slots;
  T largest = -std::numeric_limits<T>::infinity();
  for (int64_t m = 0; m < slots; ++m) {
    alpha[m] = std::exp(log_alpha[m]);
    write[m] = -std::expm1(log_alpha[m]);
    T u = 0;
    for (int64_t i = 0; i < in.sizes.key_dim; ++i) {
      after[i * slots + m] = before[i * slots + m] * alpha[m] + k[i] * write[m];
      u += after[i * slots + m] * q[i];
    }
    p[m] = in.scale * u;
    largest = std::max(largest, p[m]);
  }
  T sum = 0;
  for (int64_t m = 0; m < slots; ++m) {
    p[m] = std::exp(p[m] - largest);
    sum += p[m];
  }
  for (int64_t m = 0; m < slots; ++m) {
    p[m] /= sum;
  }
}

// Value state and output of token t; no output is written to null.
template <typename T>
void attend_values(const GsaInputs<T>& in, int64_t token, int64_t t, int64_t head,
                   History<T>& history, T* output) {
  const int64_t value_dim = in.sizes.value_dim;
  const T* v = in.v.at(token, head / in.sizes.group);
  const T* before = history.value.data() + t * in.sizes.value_state();
  T* after = history.value.data() + (t + 1) * in.sizes.value_state();
  const T* alpha = history.alpha.data() + t * in.sizes.slots;
  const T* write = history.write.data() + t * in.sizes.slots;
  const T* p = history.p.data() + t * in.sizes.slots;
  for (int64_t j = 0; j < value_dim; ++j) {
    T sum = 0;
    for (int64_t m = 0; m < in.sizes.slots; ++m) {
      after[m * value_dim + j] = before[m * value_dim + j] * alpha[m] + write[m] * v[j];
      sum += after[m * value_dim + j] * p[m];
    }
    if (output != nullptr) {
      output[j] = sum;
    }
  }
}

// The states' gradients on their way back through a sequence.
template <typename T>
struct StateGradients {
  std::vector<T> key;    // [K, M]
  std::vector<T> value;  // [M, V]
};

template <typename T>
StateGradients<T> final_gradients(const GsaInputs<T>& in, const GsaGradients<T>& grads,
                                  int64_t sequence, int64_t head) {
  StateGradients<T> states;
  states.key.resize(static_cast<size_t>(in.sizes.key_state()));
  states.value.resize(static_cast<size_t>(in.sizes.value_state()));
  if (grads.final_key != nullptr) {
    std::copy_n(grads.final_key + in.key_offset(sequence, head), in.sizes.key_state(),
                states.key.data());
  }
  if (grads.final_value != nullptr) {
    std::copy_n(grads.final_value + in.value_offset(sequence, head), in.sizes.value_state(),
                states.value.data());
  }
  return states;
}

// Back through token t's second pass: `states.value` goes from after the token to before it. Adds
// to dv and to the gradient of alpha; returns that of p.
template <typename T>
std::vector<T> values_backward(const GsaInputs<T>& in, const GsaGradients<T>& grads, int64_t token,
                               int64_t t, int64_t head, const History<T>& history,
                               StateGradients<T>& states, std::vector<T>& grad_alpha) {
  const int64_t value_dim = in.sizes.value_dim;
  const T* v = in.v.at(token, head / in.sizes.group);
  const T* grad_output = grads.output.at(token, head);
  T* grad_v = grads.v.at(token, head / in.sizes.group);
  const T* before = history.value.data() + t * in.sizes.value_state();
  const T* after = history.value.data() + (t + 1) * in.sizes.value_state();
  std::vector<T> grad_p(static_cast<size_t>(in.sizes.slots));
  for (int64_t m = 0; m < in.sizes.slots; ++m) {
    const T alpha = history.alpha[t * in.sizes.slots + m];
    const T write = history.write[t * in.sizes.slots + m];
    const T p = history.p[t * in.sizes.slots + m];
    T grad_write = 0;
    for (int64_t j = 0; j < value_dim; ++j) {
      T& state = states.value[m * value_dim + j];
      state += p * grad_output[j];
      grad_p[m] += after[m * value_dim + j] * grad_output[j];
      grad_v[j] += state * write;
      grad_write += state * v[j];
      grad_alpha[m] += state * before[m * value_dim + j];
      state *= alpha;
    }
    grad_alpha[m] -= grad_write;  // s = 1 - alpha
  }
  return grad_p;
}

// Back through the softmax of token t: the gradient of u from that of p.
template <typename T>
std::vector<T> slots_backward(const GsaSizes& sizes, int64_t t, const History<T>& history,
                              std::vector<T> grad_p) {
  const T* p = history.p.data() + t * sizes.slots;
  T mean = 0;
  for (int64_t m = 0; m < sizes.slots; ++m) {
    mean += p[m] * grad_p[m];
  }
  for (int64_t m = 0; m < sizes.slots; ++m) {
    grad_p[m] = p[m] * (grad_p[m] - mean);
  }
  return grad_p;
}

// Back through token t's first pass, as values_backward. Adds to dk and writes dq.
template <typename T>
void keys_backward(const GsaInputs<T>& in, const GsaGradients<T>& grads, int64_t token, int64_t t,
                   int64_t head, const History<T>& history, const std::vector<T>& grad_u,
                   StateGradients<T>& states, std::vector<T>& grad_alpha) {
  const int64_t slots = in.sizes.slots;
  const T* q = in.q.at(token, head);
  const T* k = in.k.at(token, head / in.sizes.group);
  T* grad_q = grads.q.at(token, head);
  T* grad_k = grads.k.at(token, head / in.sizes.group);
  const T* before = history.key.data() + t * in.sizes.key_state();
  const T* after = history.key.data() + (t + 1) * in.sizes.key_state();
  std::vector<T> grad_write(static_cast<size_t>(slots));
  for (int64_t i = 0; i < in.sizes.key_dim; ++i) {
    grad_q[i] = 0;
    for (int64_t m = 0; m < slots; ++m) {
      T& state = states.key[i * slots + m];
      state += in.scale * q[i] * grad_u[m];
      grad_q[i] += in.scale * after[i * slots + m] * grad_u[m];
      grad_k[i] += state * history.write[t * slots + m];
      grad_write[m] += state * k[i];
      grad_alpha[m] += state * before[i * slots + m];
      state *= history.alpha[t * slots + m];
    }
  }
  for (int64_t m = 0; m < slots; ++m) {
    grad_alpha[m] -= grad_write[m];
  }
}

template <typename T>
History<T> run_history(const GsaInputs<T>& in, int64_t sequence, int64_t head,
                       const cpu::Heads<T>& output) {
  const int64_t first = in.offsets[sequence];
  const int64_t length = in.offsets[sequence + 1] - first;
  History<T> history = begin_history(in, sequence, head, length);
  for (int64_t t = 0; t < length; ++t) {
    attend_keys(in, first + t, t, head, history);
    attend_values(in, first + t, t, head, history, output ? output.at(first + t, head) : nullptr);
  }
  return history;
}

template <typename T>
void forward(const GsaForward& args) {
  const GsaInputs<T> in(args);
  const auto output = cpu::heads_of<T>(args.output);
  T* final_key = cpu::elements_of<T>(args.final_key_state);
  T* final_value = cpu::elements_of<T>(args.final_value_state);
  for (int64_t sequence = 0; sequence < in.sizes.sequences; ++sequence) {
    for (int64_t head = 0; head < in.sizes.query_heads; ++head) {
      const History<T> history = run_history(in, sequence, head, output);
      if (final_key != nullptr) {
        std::copy(history.key.end() - in.sizes.key_state(), history.key.end(),
                  final_key + in.key_offset(sequence, head));
      }
      if (final_value != nullptr) {
        std::copy(history.value.end() - in.sizes.value_state(), history.value.end(),
                  final_value + in.value_offset(sequence, head));
      }
    }
  }
}

template <typename T>
void backward_head(const GsaInputs<T>& in, const GsaGradients<T>& grads, int64_t sequence,
                   int64_t head) {
  const History<T> history = run_history(in, sequence, head, cpu::Heads<T>{});
  StateGradients<T> states = final_gradients(in, grads, sequence, head);
  const int64_t first = in.offsets[sequence];
  for (int64_t t = in.offsets[sequence + 1] - first - 1; t >= 0; --t) {
    std::vector<T> grad_alpha(static_cast<size_t>(in.sizes.slots));
    std::vector<T> grad_p =
        values_backward(in, grads, first + t, t, head, history, states, grad_alpha);
    const std::vector<T> grad_u = slots_backward(in.sizes, t, history, std::move(grad_p));
    keys_backward(in, grads, first + t, t, head, history, grad_u, states, grad_alpha);
    T* grad_log_alpha = grads.log_alpha.at(first + t, head / in.sizes.group);
    for (int64_t m = 0; m < in.sizes.slots; ++m) {
      grad_log_alpha[m] += history.alpha[t * in.sizes.slots + m] * grad_alpha[m];
    }
  }
  if (grads.initial_key != nullptr) {
    std::copy(states.key.begin(), states.key.end(),
              grads.initial_key + in.key_offset(sequence, head));
  }
  if (grads.initial_value != nullptr) {
    std::copy(states.value.begin(), states.value.end(),
              grads.initial_value + in.value_offset(sequence, head));
  }
}

// Query heads of a group add to these in turn.
template <typename T>
void clear(const cpu::Heads<T>& gradient, const GsaSizes& sizes) {
  for (int64_t token = 0; token < sizes.tokens; ++token) {
    std::fill_n(gradient.at(token, 0), sizes.heads * gradient.dim, T(0));
  }
}

template <typename T>
void backward(const GsaBackward& args) {
  const GsaInputs<T> in(args.forward);
  const GsaGradients<T> grads(args);
  clear(grads.k, in.sizes);
  clear(grads.v, in.sizes);
  clear(grads.log_alpha, in.sizes);
  for (int64_t sequence = 0; sequence < in.sizes.sequences; ++sequence) {
    for (int64_t head = 0; head < in.sizes.query_heads; ++head) {
      backward_head(in, grads, sequence, head);
    }
  }
}

}  // namespace

void gsa_definition_forward(Stream& stream, const GsaForward& args) {
  args.check();
  require_cpu(args);
  if (args.projected()) {
    const Buffer workspace(Device::cpu, projected_workspace(args));
    run_projected(stream, args, workspace.data(), cpu::gsa_activations,
                  [](Stream& same, const GsaForward& activated, std::byte* /*workspace*/) {
                    gsa_definition_forward(same, activated);
                  });
    return;
  }
  cpu::with_real_type(args.q.dtype(), "gsa_definition_forward",
                      [&](auto zero) { forward<decltype(zero)>(args); });
}

void gsa_definition_backward(Stream& stream, const GsaBackward& args) {
  args.check();
  require_cpu(args.forward);
  if (args.forward.projected()) {
    const Buffer workspace(Device::cpu, projected_workspace(args));
    run_projected(stream, args, workspace.data(), cpu::gsa_activations,
                  [](Stream& same, const GsaBackward& activated, std::byte* /*workspace*/) {
                    gsa_definition_backward(same, activated);
                  });
    return;
  }
  cpu::with_real_type(args.forward.q.dtype(), "gsa_definition_backward",
                      [&](auto zero) { backward<decltype(zero)>(args); });
}

}  // namespace gsa::kernels
