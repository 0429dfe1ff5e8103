// The equations of KeptTokens as they stand, a sequence and key/value head at a time: its tokens
// since the states were written are activated again in every step.
#include "kernels/cpu/gsa_decode_kept.h"

#include <algorithm>

#include "kernels/cpu/gsa_view.h"
#include "kernels/cpu/math.h"
#include "kernels/cpu/typed.h"

namespace gsa::kernels::cpu {
namespace {

// What a thread has of one head: the tokens since the states were written, activated.
template <typename T>
struct Tokens {
  Tokens(Pieces pieces, const GsaDecode& args)
      : k(pieces.take<T>(args.kept.period() * args.key_dim())),
        v(pieces.take<T>(args.kept.period() * args.value_dim())),
        weight(pieces.take<T>(args.kept.period() * args.slots())),
        decay(pieces.take<T>(args.slots())),
        q(pieces.take<T>(args.key_dim())),
        p(pieces.take<T>(args.slots())),
        bytes(pieces.bytes()) {}
  T* k;       // [j, K]
  T* v;       // [j, V]
  T* weight;  // [j, M] e^{b_j - b_i} (1 - alpha_i)
  T* decay;   // [M] e^{b_j}
  T* q;       // [K] of one query head
  T* p;       // [M] of one query head
  size_t bytes;
};

template <typename T>
void swish(int64_t count, const T* input, T* output) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    output[i] = input[i] * sigmoid(input[i]);
  }
}

template <typename T>
class KeptStep {
 public:
  explicit KeptStep(const GsaDecode& args)
      : key_dim_(args.key_dim()),
        value_dim_(args.value_dim()),
        slots_(args.slots()),
        heads_(args.heads),
        query_heads_(args.query_heads),
        row_(args.kept.rows.dim(3)),
        most_(args.kept.period() - 1),
        gate_factor_(T(1 / args.gate_normalizer)),
        scale_(T(args.scale)),
        projected_(rows_of<T>(args.projected)),
        output_(rows_of<T>(args.output)),
        rows_(elements_of<T>(args.kept.rows)),
        key_state_(elements_of<T>(args.key_state)),
        value_state_(elements_of<T>(args.value_state)) {
    const int64_t step = *args.kept.step.template as<int32_t>();
    const int64_t phase = (step + args.kept.offset) % args.kept.period();
    kept_ = std::min(step, phase);
    writes_ = phase == most_;
  }

  void run(int64_t sequence, int64_t head, const Tokens<T>& tokens) const {
    load_tokens(sequence, head, tokens);
    const int64_t group = query_heads_ / heads_;
    for (int64_t query_head = head * group; query_head < (head + 1) * group; ++query_head) {
      const int64_t unit = sequence * query_heads_ + query_head;
      T* key = key_state_ + unit * key_dim_ * slots_;
      T* value = value_state_ + unit * slots_ * value_dim_;
      swish(key_dim_, projected_[sequence] + query_head * key_dim_, tokens.q);
      find_probabilities(key, tokens);
      T* o = output_[sequence] + query_head * value_dim_;
      read_values(value, tokens, o);
      swish(value_dim_, o, o);
      if (writes_) {
        write(key, value, tokens);
      }
    }
    if (!writes_) {
      keep(sequence, head);
    }
  }

 private:
  int64_t count() const { return kept_ + 1; }
  // A head's columns of a token.
  struct Columns {
    const T* k;
    const T* v;
    const T* gate;
  };
  T* kept_row(int64_t sequence, int64_t head, int64_t i) const {
    return rows_ + ((sequence * heads_ + head) * most_ + i) * row_;
  }
  // Of token i; the last one is this step's.
  Columns token(int64_t sequence, int64_t head, int64_t i) const {
    if (i < kept_) {
      const T* row = kept_row(sequence, head, i);
      return {row, row + key_dim_, row + key_dim_ + value_dim_};
    }
    const T* k = projected_[sequence] + query_heads_ * key_dim_;
    const T* v = k + heads_ * key_dim_;
    const T* gate = v + heads_ * value_dim_;
    return {k + head * key_dim_, v + head * value_dim_, gate + head * slots_};
  }

  // From the last token to the first, b_j - b_i growing in `decay`.
  void load_tokens(int64_t sequence, int64_t head, const Tokens<T>& tokens) const {
    std::fill_n(tokens.decay, slots_, T(0));
    for (int64_t i = kept_; i >= 0; --i) {
      const Columns from = token(sequence, head, i);
      swish(key_dim_, from.k, tokens.k + i * key_dim_);
      swish(value_dim_, from.v, tokens.v + i * value_dim_);
      T* weight = tokens.weight + i * slots_;
#pragma omp simd
      for (int64_t m = 0; m < slots_; ++m) {
        const T log_alpha = gate_factor_ * log_sigmoid(from.gate[m]);
        weight[m] = fast_exp(tokens.decay[m]) * one_minus_exp(log_alpha);
        tokens.decay[m] += log_alpha;
      }
    }
#pragma omp simd
    for (int64_t m = 0; m < slots_; ++m) {
      tokens.decay[m] = fast_exp(tokens.decay[m]);
    }
  }

  void find_probabilities(const T* key, const Tokens<T>& tokens) const {
    T* u = tokens.p;
    std::fill_n(u, slots_, T(0));
    for (int64_t row = 0; row < key_dim_; ++row) {
      add_scaled(slots_, tokens.q[row], key + row * slots_, u);
    }
    for (int64_t m = 0; m < slots_; ++m) {
      u[m] *= tokens.decay[m];
    }
    for (int64_t i = 0; i < count(); ++i) {
      const T score = dot(key_dim_, tokens.k + i * key_dim_, tokens.q);
      add_scaled(slots_, score, tokens.weight + i * slots_, u);
    }
    for (int64_t m = 0; m < slots_; ++m) {
      u[m] *= scale_;
    }
    softmax(slots_, u, tokens.p);
  }

  void read_values(const T* value, const Tokens<T>& tokens, T* o) const {
    std::fill_n(o, value_dim_, T(0));
    for (int64_t m = 0; m < slots_; ++m) {
      add_scaled(value_dim_, tokens.p[m] * tokens.decay[m], value + m * value_dim_, o);
    }
    for (int64_t i = 0; i < count(); ++i) {
      const T share = dot(slots_, tokens.p, tokens.weight + i * slots_);
      add_scaled(value_dim_, share, tokens.v + i * value_dim_, o);
    }
  }

  void write(T* key, T* value, const Tokens<T>& tokens) const {
    for (int64_t row = 0; row < key_dim_; ++row) {
      T* slot_keys = key + row * slots_;
      for (int64_t m = 0; m < slots_; ++m) {
        slot_keys[m] *= tokens.decay[m];
      }
      for (int64_t i = 0; i < count(); ++i) {
        add_scaled(slots_, tokens.k[i * key_dim_ + row], tokens.weight + i * slots_, slot_keys);
      }
    }
    for (int64_t m = 0; m < slots_; ++m) {
      T* slot_values = value + m * value_dim_;
      for (int64_t column = 0; column < value_dim_; ++column) {
        slot_values[column] *= tokens.decay[m];
      }
      for (int64_t i = 0; i < count(); ++i) {
        add_scaled(value_dim_, tokens.weight[i * slots_ + m], tokens.v + i * value_dim_,
                   slot_values);
      }
    }
  }

  void keep(int64_t sequence, int64_t head) const {
    const Columns from = token(sequence, head, kept_);
    T* to = kept_row(sequence, head, kept_);
    to = std::copy_n(from.k, key_dim_, to);
    to = std::copy_n(from.v, value_dim_, to);
    std::copy_n(from.gate, slots_, to);
  }

  int64_t key_dim_;
  int64_t value_dim_;
  int64_t slots_;
  int64_t heads_;
  int64_t query_heads_;
  int64_t row_;   // elements of a kept token
  int64_t most_;  // tokens that may be kept
  int64_t kept_;
  bool writes_;
  T gate_factor_;
  T scale_;
  Rows<const T> projected_;
  Rows<T> output_;
  T* rows_;
  T* key_state_;
  T* value_state_;
};

}  // namespace

size_t gsa_decode_kept_workspace(const GsaDecode& args) {
  const size_t one = args.projected.dtype() == DType::float64
                         ? Tokens<double>(Pieces(nullptr), args).bytes
                         : Tokens<float>(Pieces(nullptr), args).bytes;
  return one * static_cast<size_t>(scratch_threads());
}

void gsa_decode_kept(const GsaDecode& args, std::byte* workspace) {
  with_real_type(args.projected.dtype(), "gsa_decode", [&](auto type) {
    using T = decltype(type);
    const size_t bytes = Tokens<T>(Pieces(nullptr), args).bytes;
    const KeptStep<T> step(args);
    const int64_t work = 2 * args.query_heads / args.heads * args.key_dim() * args.slots();
    for_each_unit(args.projected.dim(0) * args.heads, work, [&](int64_t unit, int64_t thread) {
      const Tokens<T> tokens(Pieces(workspace + static_cast<size_t>(thread) * bytes), args);
      step.run(unit / args.heads, unit % args.heads, tokens);
    });
  });
}

}  // namespace gsa::kernels::cpu
