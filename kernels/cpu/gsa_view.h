// The operands of gated slot attention as the CPU's loops see them, the pieces of a workspace, and
// the way the work is shared among threads.
//
// The unit of work is one sequence and one key/value head with all of its query heads: nothing
// crosses units, so results do not depend on the number of threads.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/cpu/gsa_simd.h"
#include "kernels/cpu/math.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/typed.h"
#include "kernels/gsa.h"

namespace gsa::kernels::cpu {

// A tensor [tokens, heads, dim]: the vector of one token and head.
template <typename T>
struct Heads {
  Rows<T> rows;
  int64_t dim = 0;

  T* at(int64_t token, int64_t head) const { return rows[token] + head * dim; }
  int64_t stride() const { return rows.stride; }
  explicit operator bool() const { return bool(rows); }
};

template <typename T>
Heads<const T> heads_of(const ConstTensor& tensor) {
  return {rows_of<T>(tensor), tensor ? tensor.dim(2) : 0};
}
template <typename T>
Heads<T> heads_of(const Tensor& tensor) {
  return {rows_of<T>(tensor), tensor ? tensor.dim(2) : 0};
}

struct GsaSizes {
  explicit GsaSizes(const GsaForward& args)
      : sequences(args.sequences.count()),
        tokens(args.sequences.tokens()),
        heads(args.heads()),
        query_heads(args.query_heads()),
        group(args.query_heads() / args.heads()),
        key_dim(args.key_dim()),
        value_dim(args.value_dim()),
        slots(args.slots()) {
    for (int64_t i = 0; i < sequences; ++i) {
      longest = std::max<int64_t>(longest, args.sequences.host[i + 1] - args.sequences.host[i]);
    }
  }

  int64_t key_state() const { return key_dim * slots; }      // elements
  int64_t value_state() const { return slots * value_dim; }  // elements
  int64_t units() const { return sequences * heads; }
  // Element operations of a unit of average length.
  int64_t unit_work() const {
    return tokens / std::max<int64_t>(sequences, 1) * group * (key_state() + value_state());
  }

  int64_t sequences;
  int64_t tokens;
  int64_t heads;
  int64_t query_heads;
  int64_t group;  // query heads a key/value head
  int64_t key_dim;
  int64_t value_dim;
  int64_t slots;
  int64_t longest = 0;  // tokens of the longest sequence
};

template <typename T>
struct GsaInputs {
  explicit GsaInputs(const GsaForward& args)
      : sizes(args),
        q(heads_of<T>(args.q)),
        k(heads_of<T>(args.k)),
        v(heads_of<T>(args.v)),
        log_alpha(heads_of<T>(args.log_alpha)),
        offsets(args.sequences.host),
        scale(static_cast<T>(args.scale)),
        initial_key(elements_of<T>(args.initial_key_state)),
        initial_value(elements_of<T>(args.initial_value_state)) {}

  // The states of a (sequence, query head) within a state tensor.
  int64_t key_offset(int64_t sequence, int64_t head) const {
    return (sequence * sizes.query_heads + head) * sizes.key_state();
  }
  int64_t value_offset(int64_t sequence, int64_t head) const {
    return (sequence * sizes.query_heads + head) * sizes.value_state();
  }

  GsaSizes sizes;
  Heads<const T> q, k, v, log_alpha;
  std::span<const int32_t> offsets;
  T scale;
  const T* initial_key;    // null: zero
  const T* initial_value;  // null: zero
};

// The gradients that come in and go out.
template <typename T>
struct GsaGradients {
  explicit GsaGradients(const GsaBackward& args)
      : output(heads_of<T>(args.grad_output)),
        q(heads_of<T>(args.grad_q)),
        k(heads_of<T>(args.grad_k)),
        v(heads_of<T>(args.grad_v)),
        log_alpha(heads_of<T>(args.grad_log_alpha)),
        final_key(elements_of<T>(args.grad_final_key_state)),
        final_value(elements_of<T>(args.grad_final_value_state)),
        initial_key(elements_of<T>(args.grad_initial_key_state)),
        initial_value(elements_of<T>(args.grad_initial_value_state)) {}

  Heads<const T> output;
  Heads<T> q, k, v, log_alpha;
  const T* final_key;
  const T* final_value;
  T* initial_key;
  T* initial_value;
};

// Hands out pieces of a workspace. Made over null it hands out nulls and measures, so that the
// bytes a workspace needs and the places of its parts come from the same lines.
class Pieces {
 public:
  explicit Pieces(std::byte* start) : start_(start) {}

  template <typename T>
  T* take(int64_t count) {
    T* piece = start_ == nullptr ? nullptr : reinterpret_cast<T*>(start_ + bytes_);
    const size_t size = static_cast<size_t>(count) * sizeof(T);
    bytes_ += (size + alignment - 1) / alignment * alignment;
    return piece;
  }
  size_t bytes() const { return bytes_; }

 private:
  static constexpr size_t alignment = 64;  // a cache line
  std::byte* start_;
  size_t bytes_ = 0;
};

// Threads that may ask for scratch memory at once.
inline int64_t scratch_threads() {
  return omp_get_max_threads();
}

// Calls body(unit, thread) for each unit, the next one by whichever thread is free (sequences
// differ in length). `work`: element operations of a unit. The body must not throw.
template <typename Body>
void for_each_unit(int64_t units, int64_t work, const Body& body) {
  // One thread runs the same region (see parallel_for).
  const bool alone = units * work < min_parallel_work;
  const int threads = alone ? 1 : int(std::clamp<int64_t>(units, 1, scratch_threads()));
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (int64_t unit = 0; unit < units; ++unit) {
    body(unit, int64_t{omp_get_thread_num()});
  }
}

// Copies a state, or makes it zero where there is none to copy.
template <typename T>
void start_state(const T* from, int64_t count, T* state) {
  if (from == nullptr) {
    std::fill_n(state, count, T(0));
  } else if (from != state) {
    std::copy_n(from, count, state);
  }
}

inline double one_minus_exp(double x) {
  return -std::expm1(x);
}

// 1 - e^x for x <= 0, to 3e-7 of its value: near zero the Taylor series, without the difference.
inline float one_minus_exp(float x) {
  constexpr float near_zero = -0.35F;  // the first term left out is below 1e-9 of the sum
  const float inside = x < near_zero ? 0.0F : x;
  float p = 1.0F / 40320;
  p = p * inside + 1.0F / 5040;
  p = p * inside + 1.0F / 720;
  p = p * inside + 1.0F / 120;
  p = p * inside + 1.0F / 24;
  p = p * inside + 1.0F / 6;
  p = p * inside + 0.5F;
  p = p * inside + 1.0F;
  const float far = 1.0F - fast_exp(x);
  return x < near_zero ? far : -inside * p;
}

// alpha = e^log_alpha and s = 1 - alpha.
template <typename T>
void gates_of(int64_t slots, const T* log_alpha, T* alpha, T* write) {
#pragma omp simd
  for (int64_t m = 0; m < slots; ++m) {
    alpha[m] = fast_exp(log_alpha[m]);
    write[m] = one_minus_exp(log_alpha[m]);
  }
}

// The sum of a[i] * b[i].
template <typename T>
T dot(int64_t count, const T* a, const T* b) {
  using Vector = typename VectorOf<T>::type;
  constexpr int64_t lanes = sizeof(Vector) / sizeof(T);
  Vector even{};
  Vector odd{};
  int64_t i = 0;
  for (; i + 2 * lanes <= count; i += 2 * lanes) {
    even += load<Vector>(a + i) * load<Vector>(b + i);
    odd += load<Vector>(a + i + lanes) * load<Vector>(b + i + lanes);
  }
  for (; i + lanes <= count; i += lanes) {
    even += load<Vector>(a + i) * load<Vector>(b + i);
  }
  even += odd;
  T sum = sum_of_lanes<T>(even);
  for (; i < count; ++i) {
    sum += a[i] * b[i];
  }
  return sum;
}

// target += factor * source.
template <typename T>
void add_scaled(int64_t count, T factor, const T* source, T* target) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    target[i] += factor * source[i];
  }
}

// p = softmax(u); p may be u.
template <typename T>
void softmax(int64_t count, const T* u, T* p) {
  T largest = u[0];
#pragma omp simd reduction(max : largest)
  for (int64_t m = 0; m < count; ++m) {
    largest = u[m] > largest ? u[m] : largest;
  }
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t m = 0; m < count; ++m) {
    p[m] = fast_exp(u[m] - largest);
    sum += p[m];
  }
  const T inverse = T(1) / sum;
#pragma omp simd
  for (int64_t m = 0; m < count; ++m) {
    p[m] *= inverse;
  }
}

// The gradient of u from that of p = softmax(u): du = p * (dp - <p, dp>); du may be dp.
template <typename T>
void softmax_backward(int64_t count, const T* p, const T* dp, T* du) {
  const T mean = dot(count, p, dp);
#pragma omp simd
  for (int64_t m = 0; m < count; ++m) {
    du[m] = p[m] * (dp[m] - mean);
  }
}

// sums[m] = sum over K of key[., m] * grad_key[., m] + sum over V of value[m, .] * grad_value[m,
// .]: the gradient of the running sum of log alpha that flows through the states at its end.
template <typename T>
void state_terms(const GsaSizes& sizes, const T* key, const T* grad_key, const T* value,
                 const T* grad_value, T* sums) {
  std::fill_n(sums, sizes.slots, T(0));
  for (int64_t i = 0; i < sizes.key_dim; ++i) {
    const T* row = key + i * sizes.slots;
    const T* grad_row = grad_key + i * sizes.slots;
#pragma omp simd
    for (int64_t m = 0; m < sizes.slots; ++m) {
      sums[m] += row[m] * grad_row[m];
    }
  }
  for (int64_t m = 0; m < sizes.slots; ++m) {
    sums[m] += dot(sizes.value_dim, value + m * sizes.value_dim, grad_value + m * sizes.value_dim);
  }
}

}  // namespace gsa::kernels::cpu
