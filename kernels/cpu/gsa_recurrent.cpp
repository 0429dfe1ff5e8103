// The recurrent form: one token after another, in the memory of one state a head. Forward it is
// what generation runs, one token a sequence: the states are read and written once. Backward it
// makes the states again, from checkpoints at every stretch of about sqrt(T) tokens.
#include <algorithm>

#include "kernels/backends.h"
#include "kernels/cpu/gsa_activations.h"
#include "kernels/cpu/gsa_view.h"

namespace gsa::kernels::cpu {
namespace {

// The gates of a token: in scratch memory, [M] each.
template <typename T>
struct StepGates {
  StepGates(Pieces& memory, int64_t slots)
      : alpha(memory.take<T>(slots)), write(memory.take<T>(slots)) {}
  T* alpha;
  T* write;
};

// next = key Diag(alpha) + k write^T and u = scale * next^T q; next may be key.
template <typename T>
void step_keys(const GsaInputs<T>& in, int64_t token, int64_t head, const StepGates<T>& gates,
               const T* key, T* next, T* u) {
  const int64_t slots = in.sizes.slots;
  const T* q = in.q.at(token, head);
  const T* k = in.k.at(token, head / in.sizes.group);
  std::fill_n(u, slots, T(0));
  for (int64_t i = 0; i < in.sizes.key_dim; ++i) {
    const T* row = key + i * slots;
    T* next_row = next + i * slots;
    const T k_i = k[i];
    const T q_i = in.scale * q[i];
#pragma omp simd
    for (int64_t m = 0; m < slots; ++m) {
      const T state = row[m] * gates.alpha[m] + k_i * gates.write[m];
      next_row[m] = state;
      u[m] += q_i * state;
    }
  }
}

// next = Diag(alpha) value + write v^T, and output = next^T p unless it is null; next may be value.
template <typename T>
void step_values(const GsaInputs<T>& in, int64_t token, int64_t head, const StepGates<T>& gates,
                 const T* p, const T* value, T* next, T* output) {
  const int64_t value_dim = in.sizes.value_dim;
  const T* v = in.v.at(token, head / in.sizes.group);
  if (output != nullptr) {
    std::fill_n(output, value_dim, T(0));
  }
  for (int64_t m = 0; m < in.sizes.slots; ++m) {
    const T* row = value + m * value_dim;
    T* next_row = next + m * value_dim;
    const T alpha = gates.alpha[m];
    const T write = gates.write[m];
#pragma omp simd
    for (int64_t j = 0; j < value_dim; ++j) {
      next_row[j] = row[j] * alpha + write * v[j];
    }
    if (output != nullptr) {
      add_scaled(value_dim, p[m], next_row, output);
    }
  }
}

// Scratch memory of a thread in the forward pass; the states only where no final ones are wanted.
template <typename T>
struct ForwardScratch {
  ForwardScratch(Pieces& memory, const GsaForward& args, const GsaSizes& sizes)
      : gates(memory, sizes.slots),
        u(memory.take<T>(sizes.slots)),
        key(memory.take<T>(args.final_key_state ? 0 : sizes.key_state())),
        value(memory.take<T>(args.final_value_state ? 0 : sizes.value_state())) {}

  StepGates<T> gates;
  T* u;
  T* key;
  T* value;
};

template <typename T>
void forward_head(const GsaInputs<T>& in, const Heads<T>& output, int64_t sequence, int64_t head,
                  T* key, T* value, const ForwardScratch<T>& scratch) {
  const GsaSizes& sizes = in.sizes;
  const int64_t key_offset = in.key_offset(sequence, head);
  const int64_t value_offset = in.value_offset(sequence, head);
  start_state(in.initial_key == nullptr ? nullptr : in.initial_key + key_offset, sizes.key_state(),
              key);
  start_state(in.initial_value == nullptr ? nullptr : in.initial_value + value_offset,
              sizes.value_state(), value);
  for (int64_t token = in.offsets[sequence]; token < in.offsets[sequence + 1]; ++token) {
    gates_of(sizes.slots, in.log_alpha.at(token, head / sizes.group), scratch.gates.alpha,
             scratch.gates.write);
    step_keys(in, token, head, scratch.gates, key, key, scratch.u);
    softmax(sizes.slots, scratch.u, scratch.u);
    step_values(in, token, head, scratch.gates, scratch.u, value, value, output.at(token, head));
  }
}

template <typename T>
void forward(const GsaForward& args, std::byte* workspace) {
  const GsaInputs<T> in(args);
  const GsaSizes& sizes = in.sizes;
  const auto output = heads_of<T>(args.output);
  T* final_key = elements_of<T>(args.final_key_state);
  T* final_value = elements_of<T>(args.final_value_state);
  Pieces measure(nullptr);
  const ForwardScratch<T> unused(measure, args, sizes);
  // Query heads share nothing here that writes, so each is a unit of its own.
  const int64_t units = sizes.sequences * sizes.query_heads;
  for_each_unit(units, sizes.unit_work() / sizes.group, [&](int64_t unit, int64_t thread) {
    Pieces pieces(workspace + thread * static_cast<int64_t>(measure.bytes()));
    const ForwardScratch<T> scratch(pieces, args, sizes);
    T* key = final_key == nullptr ? scratch.key : final_key + unit * sizes.key_state();
    T* value = final_value == nullptr ? scratch.value : final_value + unit * sizes.value_state();
    forward_head(in, output, unit / sizes.query_heads, unit % sizes.query_heads, key, value,
                 scratch);
  });
}

// Tokens between two checkpoints of the backward pass: the sequence's own length decides, so that
// it goes the same way alone and among others. There are at most as many checkpoints.
int64_t stretch_of(int64_t length) {
  return std::llround(std::ceil(std::sqrt(double(length))));
}

template <typename T>
struct BackwardScratch {
  BackwardScratch(Pieces& memory, const GsaSizes& sizes) : gates(memory, sizes.slots) {
    const int64_t stretch = stretch_of(sizes.longest);
    checkpoint_keys = memory.take<T>(stretch * sizes.key_state());
    checkpoint_values = memory.take<T>(stretch * sizes.value_state());
    keys = memory.take<T>(stretch * sizes.key_state());
    values = memory.take<T>(stretch * sizes.value_state());
    u = memory.take<T>(stretch * sizes.slots);
    p = memory.take<T>(stretch * sizes.slots);
    key = memory.take<T>(sizes.key_state());
    value = memory.take<T>(sizes.value_state());
    grad_key_state = memory.take<T>(sizes.key_state());
    grad_value_state = memory.take<T>(sizes.value_state());
    grad_p = memory.take<T>(sizes.slots);
    grad_write = memory.take<T>(sizes.slots);
    tail = memory.take<T>(sizes.slots);
  }

  StepGates<T> gates;
  T* checkpoint_keys;    // [stretches, K, M], before the first token of each
  T* checkpoint_values;  // [stretches, M, V]
  T* keys;               // [stretch, K, M], after each token of the current stretch
  T* values;             // [stretch, M, V]
  T* u;                  // [stretch, M], scaled
  T* p;                  // [stretch, M]
  T* key;                // [K, M], running, while the checkpoints are made
  T* value;              // [M, V]
  T* grad_key_state;     // [K, M], after the current token, then before it
  T* grad_value_state;   // [M, V]
  T* grad_p;             // [M], then the gradient of u
  T* grad_write;         // [M], the gradient of s
  T* tail;               // [M]: the gradients of b from the current token to the stretch's end
};

// One query head of one sequence; the first head of a group writes the gradients of its key/value
// head, the others add.
template <typename T>
class HeadBackward {
 public:
  HeadBackward(const GsaInputs<T>& in, const GsaGradients<T>& grads,
               const BackwardScratch<T>& scratch, int64_t sequence, int64_t head)
      : in_(in),
        sizes_(in.sizes),
        grads_(grads),
        s_(scratch),
        sequence_(sequence),
        head_(head),
        kv_head_(head / in.sizes.group),
        key_offset_(in.key_offset(sequence, head)),
        value_offset_(in.value_offset(sequence, head)),
        first_(in.offsets[sequence]),
        length_(in.offsets[sequence + 1] - first_),
        stretch_(stretch_of(length_)) {}

  void run() const {
    const int64_t stretches = length_ == 0 ? 0 : (length_ + stretch_ - 1) / stretch_;
    make_checkpoints();
    start_state(at(grads_.final_key, key_offset_), sizes_.key_state(), s_.grad_key_state);
    start_state(at(grads_.final_value, value_offset_), sizes_.value_state(), s_.grad_value_state);
    for (int64_t i = stretches - 1; i >= 0; --i) {
      run_stretch(i, first_ + i * stretch_, std::min(stretch_, length_ - i * stretch_));
    }
    if (grads_.initial_key != nullptr) {
      std::copy_n(s_.grad_key_state, sizes_.key_state(), grads_.initial_key + key_offset_);
    }
    if (grads_.initial_value != nullptr) {
      std::copy_n(s_.grad_value_state, sizes_.value_state(), grads_.initial_value + value_offset_);
    }
  }

 private:
  static const T* at(const T* states, int64_t offset) {
    return states == nullptr ? nullptr : states + offset;
  }

  void make_checkpoints() const {
    start_state(at(in_.initial_key, key_offset_), sizes_.key_state(), s_.key);
    start_state(at(in_.initial_value, value_offset_), sizes_.value_state(), s_.value);
    for (int64_t t = 0; t < length_; ++t) {
      if (t % stretch_ == 0) {
        const int64_t i = t / stretch_;
        std::copy_n(s_.key, sizes_.key_state(), s_.checkpoint_keys + i * sizes_.key_state());
        std::copy_n(s_.value, sizes_.value_state(),
                    s_.checkpoint_values + i * sizes_.value_state());
      }
      step(first_ + t, s_.key, s_.value, s_.key, s_.value, 0);
    }
  }

  // One token forward; leaves u and p at place `t` of the stretch.
  void step(int64_t token, const T* key, const T* value, T* next_key, T* next_value,
            int64_t t) const {
    gates_of(sizes_.slots, in_.log_alpha.at(token, kv_head_), s_.gates.alpha, s_.gates.write);
    T* u = s_.u + t * sizes_.slots;
    T* p = s_.p + t * sizes_.slots;
    step_keys(in_, token, head_, s_.gates, key, next_key, u);
    softmax(sizes_.slots, u, p);
    step_values(in_, token, head_, s_.gates, p, value, next_value, static_cast<T*>(nullptr));
  }

  void run_stretch(int64_t index, int64_t first, int64_t length) const {
    const T* key = s_.checkpoint_keys + index * sizes_.key_state();
    const T* value = s_.checkpoint_values + index * sizes_.value_state();
    for (int64_t t = 0; t < length; ++t) {
      T* next_key = s_.keys + t * sizes_.key_state();
      T* next_value = s_.values + t * sizes_.value_state();
      step(first + t, key, value, next_key, next_value, t);
      key = next_key;
      value = next_value;
    }
    state_terms(sizes_, key, s_.grad_key_state, value, s_.grad_value_state, s_.tail);
    for (int64_t t = length - 1; t >= 0; --t) {
      step_back(first + t, t);
    }
  }

  void step_back(int64_t token, int64_t t) const {
    const int64_t slots = sizes_.slots;
    const T* u = s_.u + t * slots;
    const T* p = s_.p + t * slots;
    gates_of(slots, in_.log_alpha.at(token, kv_head_), s_.gates.alpha, s_.gates.write);
    values_back(token, p, s_.values + t * sizes_.value_state());
    for (int64_t m = 0; m < slots; ++m) {
      s_.tail[m] += p[m] * s_.grad_p[m];
    }
    softmax_backward(slots, p, s_.grad_p, s_.grad_p);
    keys_back(token, s_.keys + t * sizes_.key_state());
    T* grad_log_alpha = grads_.log_alpha.at(token, kv_head_);
    for (int64_t m = 0; m < slots; ++m) {
      s_.tail[m] += u[m] * s_.grad_p[m] - s_.gates.write[m] * s_.grad_write[m];
      const T gradient = s_.tail[m] - s_.gates.alpha[m] * s_.grad_write[m];
      grad_log_alpha[m] = adds() ? grad_log_alpha[m] + gradient : gradient;
    }
  }

  bool adds() const { return head_ % sizes_.group != 0; }

  // dv, the first part of ds, dp, and the value state's gradient before the token.
  void values_back(int64_t token, const T* p, const T* value) const {
    const int64_t dim = sizes_.value_dim;
    const T* v = in_.v.at(token, kv_head_);
    const T* grad_output = grads_.output.at(token, head_);
    T* grad_v = grads_.v.at(token, kv_head_);
    if (!adds()) {
      std::fill_n(grad_v, dim, T(0));
    }
    for (int64_t m = 0; m < sizes_.slots; ++m) {
      T* grad = s_.grad_value_state + m * dim;
      add_scaled(dim, p[m], grad_output, grad);
      add_scaled(dim, s_.gates.write[m], grad, grad_v);
      s_.grad_p[m] = dot(dim, value + m * dim, grad_output);
      s_.grad_write[m] = dot(dim, grad, v);
      const T alpha = s_.gates.alpha[m];
#pragma omp simd
      for (int64_t j = 0; j < dim; ++j) {
        grad[j] *= alpha;
      }
    }
  }

  // dq, dk, the second part of ds, and the key state's gradient before the token.
  void keys_back(int64_t token, const T* key) const {
    const int64_t slots = sizes_.slots;
    const T* grad_u = s_.grad_p;
    const T* q = in_.q.at(token, head_);
    const T* k = in_.k.at(token, kv_head_);
    T* grad_q = grads_.q.at(token, head_);
    T* grad_k = grads_.k.at(token, kv_head_);
    for (int64_t i = 0; i < sizes_.key_dim; ++i) {
      T* grad = s_.grad_key_state + i * slots;
      add_scaled(slots, in_.scale * q[i], grad_u, grad);
      grad_q[i] = in_.scale * dot(slots, key + i * slots, grad_u);
      const T gradient = dot(slots, grad, s_.gates.write);
      grad_k[i] = adds() ? grad_k[i] + gradient : gradient;
      add_scaled(slots, k[i], grad, s_.grad_write);
#pragma omp simd
      for (int64_t m = 0; m < slots; ++m) {
        grad[m] *= s_.gates.alpha[m];
      }
    }
  }

  const GsaInputs<T>& in_;
  const GsaSizes& sizes_;
  const GsaGradients<T>& grads_;
  const BackwardScratch<T>& s_;
  int64_t sequence_;
  int64_t head_;
  int64_t kv_head_;
  int64_t key_offset_;
  int64_t value_offset_;
  int64_t first_;    // token
  int64_t length_;   // of the sequence
  int64_t stretch_;  // tokens between two checkpoints
};

template <typename T>
void backward(const GsaBackward& args, std::byte* workspace) {
  const GsaInputs<T> in(args.forward);
  const GsaSizes& sizes = in.sizes;
  const GsaGradients<T> grads(args);
  Pieces measure(nullptr);
  const BackwardScratch<T> unused(measure, sizes);
  for_each_unit(sizes.units(), sizes.unit_work(), [&](int64_t unit, int64_t thread) {
    Pieces pieces(workspace + thread * static_cast<int64_t>(measure.bytes()));
    const BackwardScratch<T> scratch(pieces, sizes);
    const int64_t first_head = unit % sizes.heads * sizes.group;
    for (int64_t i = 0; i < sizes.group; ++i) {
      HeadBackward<T>(in, grads, scratch, unit / sizes.heads, first_head + i).run();
    }
  });
}

}  // namespace

size_t gsa_recurrent_forward_workspace(const GsaForward& args) {
  Pieces thread(nullptr);
  with_real_type(args.q.dtype(), "gsa_recurrent_forward", [&](auto zero) {
    const ForwardScratch<decltype(zero)> scratch(thread, args, GsaSizes(args));
  });
  return static_cast<size_t>(scratch_threads()) * thread.bytes() + projected_workspace(args);
}

void gsa_recurrent_forward(Stream& stream, const GsaForward& args, std::byte* workspace) {
  if (args.projected()) {
    run_projected(stream, args, workspace, gsa_activations, gsa_recurrent_forward);
    return;
  }
  with_real_type(args.q.dtype(), "gsa_recurrent_forward",
                 [&](auto zero) { forward<decltype(zero)>(args, workspace); });
}

size_t gsa_recurrent_backward_workspace(const GsaBackward& args) {
  Pieces thread(nullptr);
  with_real_type(args.forward.q.dtype(), "gsa_recurrent_backward", [&](auto zero) {
    const BackwardScratch<decltype(zero)> scratch(thread, GsaSizes(args.forward));
  });
  return static_cast<size_t>(scratch_threads()) * thread.bytes() + projected_workspace(args);
}

void gsa_recurrent_backward(Stream& stream, const GsaBackward& args, std::byte* workspace) {
  if (args.forward.projected()) {
    run_projected(stream, args, workspace, gsa_activations, gsa_recurrent_backward);
    return;
  }
  with_real_type(args.forward.q.dtype(), "gsa_recurrent_backward",
                 [&](auto zero) { backward<decltype(zero)>(args, workspace); });
}

}  // namespace gsa::kernels::cpu
