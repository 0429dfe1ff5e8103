// The chunked form, backward. Chunks are walked from the last to the first; the states before each
// of a chunk's tiles are made again from the state at the chunk's start, and u is read from what
// the forward pass saved (or made again, if it saved nothing). The sums of the gate's gradient
// start anew at each tile from the states there and their gradients, so that rounding does not pile
// up over a sequence.
#include <algorithm>
#include <array>

#include "kernels/backends.h"
#include "kernels/cpu/gsa_activations.h"
#include "kernels/cpu/gsa_chunked.h"

namespace gsa::kernels::cpu {
namespace {

// Scratch memory of one thread. The gates are those of each of a chunk's tiles; states[i] lie after
// tile i.
template <typename T>
struct BackwardScratch {
  BackwardScratch(Pieces& memory, const GsaSizes& sizes)
      : gates{TileGates<T>(memory, sizes.slots), TileGates<T>(memory, sizes.slots),
              TileGates<T>(memory, sizes.slots), TileGates<T>(memory, sizes.slots)} {
    static_assert(tiles_per_chunk == 4);
    const int64_t slot_rows = gsa_tile * sizes.slots;
    for (int64_t i = 0; i < tiles_per_chunk; ++i) {
      key_states[i] = memory.take<T>(sizes.key_state());
      value_states[i] = memory.take<T>(sizes.value_state());
    }
    grad_key_state = memory.take<T>(sizes.key_state());
    grad_value_state = memory.take<T>(sizes.value_state());
    k_turned = memory.take<T>(gsa_tile * sizes.key_dim);
    v_turned = memory.take<T>(gsa_tile * sizes.value_dim);
    const int64_t widest = std::max({sizes.key_dim, sizes.value_dim, sizes.slots});
    turned = memory.take<T>(gsa_tile * widest);
    turned_result = memory.take<T>(gsa_tile * widest);
    p = memory.take<T>(slot_rows);
    grad_u = memory.take<T>(slot_rows);
    trace = memory.take<T>(slot_rows);
    grad_sum = memory.take<T>(slot_rows);
    grad_write = memory.take<T>(slot_rows);
    pair_grad_write = memory.take<T>(slot_rows);
    tail = memory.take<T>(sizes.slots);
    qk = memory.take<T>(gsa_tile * gsa_tile);
    grad_qk = memory.take<T>(gsa_tile * gsa_tile);
    pv = memory.take<T>(gsa_tile * gsa_tile);
    grad_pv = memory.take<T>(gsa_tile * gsa_tile);
    grad_k = memory.take<T>(gsa_tile * sizes.key_dim);
    grad_v = memory.take<T>(gsa_tile * sizes.value_dim);
  }

  std::array<TileGates<T>, tiles_per_chunk> gates;
  std::array<T*, tiles_per_chunk> key_states{};
  std::array<T*, tiles_per_chunk> value_states{};
  T* grad_key_state;    // [K, M], after the current tile, then before it
  T* grad_value_state;  // [M, V]
  T* k_turned;          // [K, tile]
  T* v_turned;          // [V, tile]
  T* turned;            // an operand of turned_product
  T* turned_result;     // its result before it is turned back
  T* p;                 // [tile, M]
  T* grad_u;            // [tile, M], the gradient of p first
  T* trace;             // [tile, M]: what each token wrote, decayed to the current token
  T* grad_sum;          // [tile, M]: p * dp + u * du, over the query heads
  T* grad_write;        // [tile, M]: the gradient of s
  T* pair_grad_write;   // [tile, M]: that of one head, within the tile
  T* tail;              // [M]: the sum of the gradients of b from a token to the tile's end
  T* qk;                // [tile, tile]: scale * q_t . k_j
  T* grad_qk;           // its gradient, times scale
  T* pv;                // [tile, tile]: the weight of v_j in o_t
  T* grad_pv;           // its gradient, do_t . v_j
  T* grad_k;            // [tile, K], summed over the query heads of a lane
  T* grad_v;            // [tile, V]
};

// What of a lane a tile needs.
template <typename T>
struct TileStates {
  const T* key;         // before the tile
  const T* value;       // before the tile
  const T* next_key;    // after it
  const T* next_value;  // after it
};

template <typename T>
class LaneBackward {
 public:
  LaneBackward(const GsaInputs<T>& in, const GsaGradients<T>& grads, const GsaSaved<T>& saved,
               const BackwardScratch<T>& scratch, const Lane& lane)
      : in_(in), sizes_(in.sizes), grads_(grads), saved_(saved), s_(scratch), lane_(lane) {}

  void run(int64_t first_chunk) const {
    sum_final(grads_.final_key, sizes_.key_state(), s_.grad_key_state);
    sum_final(grads_.final_value, sizes_.value_state(), s_.grad_value_state);
    const int64_t first = in_.offsets[lane_.sequence];
    const int64_t length = in_.offsets[lane_.sequence + 1] - first;
    for (int64_t chunk = (length + gsa_chunk - 1) / gsa_chunk - 1; chunk >= 0; --chunk) {
      run_chunk(first_chunk + chunk, first + chunk * gsa_chunk,
                std::min(gsa_chunk, length - chunk * gsa_chunk));
    }
    const int64_t key_offset = in_.key_offset(lane_.sequence, lane_.first_head);
    const int64_t value_offset = in_.value_offset(lane_.sequence, lane_.first_head);
    if (grads_.initial_key != nullptr) {
      std::copy_n(s_.grad_key_state, sizes_.key_state(), grads_.initial_key + key_offset);
    }
    if (grads_.initial_value != nullptr) {
      std::copy_n(s_.grad_value_state, sizes_.value_state(), grads_.initial_value + value_offset);
    }
  }

 private:
  // The gradient of the final states, summed over the lane's heads.
  void sum_final(const T* final, int64_t count, T* sum) const {
    const int64_t offset = (lane_.sequence * sizes_.query_heads + lane_.first_head) * count;
    start_state(final == nullptr ? nullptr : final + offset, count, sum);
    for (int64_t i = 1; final != nullptr && i < lane_.last_head - lane_.first_head; ++i) {
      add_scaled(count, T(1), final + offset + i * count, sum);
    }
  }

  void run_chunk(int64_t chunk, int64_t first, int64_t length) const {
    const int64_t state = chunk * saved_.sets + lane_.state_set;
    const T* key = saved_.key_states + state * sizes_.key_state();
    const T* value = saved_.value_states + state * sizes_.value_state();
    const int64_t tiles = tiles_in(length);
    for (int64_t i = 0; i < tiles; ++i) {
      const Tile tile = tile_of(first, length, i);
      s_.gates[i].compute(in_, tile, lane_.head);
      advance_states(in_, s_.gates[i], tile, lane_.head, i == 0 ? key : s_.key_states[i - 1],
                     i == 0 ? value : s_.value_states[i - 1], s_.key_states[i], s_.value_states[i]);
    }
    for (int64_t i = tiles - 1; i >= 0; --i) {
      run_tile(tile_of(first, length, i), s_.gates[i],
               {i == 0 ? key : s_.key_states[i - 1], i == 0 ? value : s_.value_states[i - 1],
                s_.key_states[i], s_.value_states[i]});
    }
  }

  void run_tile(const Tile& tile, const TileGates<T>& gates, const TileStates<T>& states) const {
    state_terms(sizes_, states.next_key, s_.grad_key_state, states.next_value, s_.grad_value_state,
                s_.tail);
    from_later_tiles(tile, gates);
    std::fill_n(s_.grad_sum, tile.length * sizes_.slots, T(0));
    turn_tile(tile, sizes_.key_dim, in_.k.at(tile.first, lane_.head), in_.k.stride(), s_.k_turned);
    for (int64_t head = lane_.first_head; head < lane_.last_head; ++head) {
      read_head(tile, gates, states, head);
      for (int64_t t = 0; t < tile.length; ++t) {
        attend(tile, gates, head, t);
      }
      add_pair_writes(tile, gates);
      write_gradients(tile, gates, states, head);
    }
    put(tile, sizes_.key_dim, s_.grad_k, grads_.k);
    put(tile, sizes_.value_dim, s_.grad_v, grads_.v);
    put_gate(tile, gates);
  }

  // result[t, i] = sum over l of rows[t, l] * matrix[i, l], for a [count, depth] matrix whose rows
  // are contiguous: as matrix * rows^T, which has a column for each token.
  void turned_product(const Tile& tile, int64_t count, int64_t depth, const T* turned_rows,
                      const T* matrix, const Result<T>& result) const {
    product(count, gsa_tile, depth, Left<T>{matrix, depth, 1}, Right<T>{turned_rows, gsa_tile},
            FromZero{}, Result<T>{s_.turned_result, gsa_tile});
    transpose(count, tile.length, s_.turned_result, gsa_tile, result.data, result.row);
  }

  // dk, dv and ds of the tile's tokens as far as they come from the states after the tile.
  void from_later_tiles(const Tile& tile, const TileGates<T>& gates) const {
    const int64_t slots = sizes_.slots;
    turn_tile(tile, slots, gates.written, slots, s_.turned);
    turned_product(tile, sizes_.key_dim, slots, s_.turned, s_.grad_key_state,
                   {s_.grad_k, sizes_.key_dim});
    product(tile.length, sizes_.value_dim, slots, Left<T>{gates.written, slots, 1},
            Right<T>{s_.grad_value_state, sizes_.value_dim}, FromZero{},
            Result<T>{s_.grad_v, sizes_.value_dim});
    turn_tile(tile, sizes_.value_dim, in_.v.at(tile.first, lane_.head), in_.v.stride(),
              s_.v_turned);
    turned_product(tile, slots, sizes_.value_dim, s_.v_turned, s_.grad_value_state,
                   {s_.grad_write, slots});
    product(tile.length, slots, sizes_.key_dim,
            Left<T>{in_.k.at(tile.first, lane_.head), in_.k.stride(), 1},
            Right<T>{s_.grad_key_state, slots}, FromMatrix<T>{s_.grad_write, slots},
            Result<T>{s_.grad_write, slots});
    for (int64_t i = 0; i < tile.length * slots; ++i) {
      s_.grad_write[i] *= gates.rest[i];
    }
  }

  // The products of a query head that need no softmax: qk, grad_pv, and the part of dp that comes
  // from the state before the tile.
  void read_head(const Tile& tile, const TileGates<T>& gates, const TileStates<T>& states,
                 int64_t head) const {
    const int64_t slots = sizes_.slots;
    const T* grad_output = grads_.output.at(tile.first, head);
    product(tile.length, gsa_tile, sizes_.key_dim,
            Left<T>{in_.q.at(tile.first, head), in_.q.stride(), 1}, Right<T>{s_.k_turned, gsa_tile},
            FromZero{}, Result<T>{s_.qk, gsa_tile});
    product(tile.length, gsa_tile, sizes_.value_dim,
            Left<T>{grad_output, grads_.output.stride(), 1}, Right<T>{s_.v_turned, gsa_tile},
            FromZero{}, Result<T>{s_.grad_pv, gsa_tile});
    for (int64_t i = 0; i < tile.length * gsa_tile; ++i) {
      s_.qk[i] *= in_.scale;
    }
    turn_tile(tile, sizes_.value_dim, grad_output, grads_.output.stride(), s_.turned);
    turned_product(tile, slots, sizes_.value_dim, s_.turned, states.value, {s_.grad_u, slots});
    for (int64_t i = 0; i < tile.length * slots; ++i) {
      s_.grad_u[i] *= gates.decay[i];
    }
    std::fill_n(s_.pv, gsa_tile * gsa_tile, T(0));
    std::fill_n(s_.grad_qk, gsa_tile * gsa_tile, T(0));
  }

  // Token t against the tokens up to it: p, du, and the rows of pv and grad_qk.
  void attend(const Tile& tile, const TileGates<T>& gates, int64_t head, int64_t t) const {
    const int64_t slots = sizes_.slots;
    const T* u = saved_.u + ((tile.first + t) * sizes_.query_heads + head) * slots;
    const T* alpha = gates.alpha + t * slots;
    T* p = s_.p + t * slots;
    T* grad_u = s_.grad_u + t * slots;
    T* grad_sum = s_.grad_sum + t * slots;
    T* own = s_.trace + t * slots;
    softmax(slots, u, p);
    std::copy_n(gates.write + t * slots, slots, own);
    add_scaled(slots, s_.grad_pv[t * gsa_tile + t], own, grad_u);
    for (int64_t j = 0; j < t; ++j) {
      const T weight = s_.grad_pv[t * gsa_tile + j];
      T* trace = s_.trace + j * slots;
#pragma omp simd
      for (int64_t m = 0; m < slots; ++m) {
        trace[m] *= alpha[m];
        grad_u[m] += weight * trace[m];
      }
    }
    add_products(slots, p, grad_u, grad_sum);
    softmax_backward(slots, p, grad_u, grad_u);
    add_products(slots, u, grad_u, grad_sum);
    for (int64_t j = 0; j <= t; ++j) {
      const T* trace = s_.trace + j * slots;
      s_.pv[t * gsa_tile + j] = dot(slots, p, trace);
      s_.grad_qk[t * gsa_tile + j] = in_.scale * dot(slots, grad_u, trace);
    }
  }

  static void add_products(int64_t count, const T* a, const T* b, T* sum) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
      sum[i] += a[i] * b[i];
    }
  }

  // ds of each token as far as it comes from the tile's later tokens, by Horner's rule from the
  // last token back: the sum at token t, decayed by alpha_{t+1}, plus what token t adds.
  void add_pair_writes(const Tile& tile, const TileGates<T>& gates) const {
    const int64_t slots = sizes_.slots;
    std::fill_n(s_.pair_grad_write, tile.length * slots, T(0));
    for (int64_t t = tile.length - 1; t >= 0; --t) {
      const T* p = s_.p + t * slots;
      const T* grad_u = s_.grad_u + t * slots;
      // No sum has begun at the last token; any factor would do.
      const T* alpha = gates.alpha + std::min(t + 1, tile.length - 1) * slots;
      for (int64_t j = 0; j <= t; ++j) {
        const T value_weight = s_.grad_pv[t * gsa_tile + j];
        const T key_weight = s_.qk[t * gsa_tile + j];
        T* sum = s_.pair_grad_write + j * slots;
#pragma omp simd
        for (int64_t m = 0; m < slots; ++m) {
          sum[m] = sum[m] * alpha[m] + value_weight * p[m] + key_weight * grad_u[m];
        }
      }
    }
    add_scaled(tile.length * slots, T(1), s_.pair_grad_write, s_.grad_write);
  }

  // dq, the head's part of dk and dv, and the gradients of the states before the tile. Decays p and
  // du to the tile's start on the way.
  void write_gradients(const Tile& tile, const TileGates<T>& gates, const TileStates<T>& states,
                       int64_t head) const {
    const int64_t slots = sizes_.slots;
    const Heads<const T>& grad_output = grads_.output;
    const Right<T> grad_output_rows{grad_output.at(tile.first, head), grad_output.stride()};
    const T* q = in_.q.at(tile.first, head);
    product(tile.length, sizes_.key_dim, tile.length, Left<T>{s_.grad_qk, 1, gsa_tile},
            Right<T>{q, in_.q.stride()}, FromMatrix<T>{s_.grad_k, sizes_.key_dim},
            Result<T>{s_.grad_k, sizes_.key_dim});
    product(tile.length, sizes_.value_dim, tile.length, Left<T>{s_.pv, 1, gsa_tile},
            grad_output_rows, FromMatrix<T>{s_.grad_v, sizes_.value_dim},
            Result<T>{s_.grad_v, sizes_.value_dim});
    for (int64_t i = 0; i < tile.length * slots; ++i) {
      s_.p[i] *= gates.decay[i];
      s_.grad_u[i] *= in_.scale * gates.decay[i];
    }
    const Result<T> grad_q{grads_.q.at(tile.first, head), grads_.q.stride()};
    turn_tile(tile, slots, s_.grad_u, slots, s_.turned);
    turned_product(tile, sizes_.key_dim, slots, s_.turned, states.key, grad_q);
    product(tile.length, sizes_.key_dim, tile.length, Left<T>{s_.grad_qk, gsa_tile, 1},
            Right<T>{in_.k.at(tile.first, lane_.head), in_.k.stride()},
            FromMatrix<T>{grad_q.data, grad_q.row}, grad_q);

    const Left<T> q_turned{q, 1, in_.q.stride()};
    const Left<T> p_turned{s_.p, 1, slots};
    const Right<T> grad_u_rows{s_.grad_u, slots};
    const Result<T> key{s_.grad_key_state, slots};
    const Result<T> value{s_.grad_value_state, sizes_.value_dim};
    if (head == lane_.first_head) {
      const T* total = gates.total(tile);
      product(sizes_.key_dim, slots, tile.length, q_turned, grad_u_rows,
              FromDecayedColumns<T>{key.data, key.row, total}, key);
      product(slots, sizes_.value_dim, tile.length, p_turned, grad_output_rows,
              FromDecayedRows<T>{value.data, value.row, total}, value);
    } else {
      product(sizes_.key_dim, slots, tile.length, q_turned, grad_u_rows,
              FromMatrix<T>{key.data, key.row}, key);
      product(slots, sizes_.value_dim, tile.length, p_turned, grad_output_rows,
              FromMatrix<T>{value.data, value.row}, value);
    }
  }

  // Writes a tile's rows to a gradient of the key/value head, or adds them.
  void put(const Tile& tile, int64_t dim, const T* rows, const Heads<T>& gradient) const {
    for (int64_t t = 0; t < tile.length; ++t) {
      T* target = gradient.at(tile.first + t, lane_.head);
      if (lane_.adds) {
        add_scaled(dim, T(1), rows + t * dim, target);
      } else {
        std::copy_n(rows + t * dim, dim, target);
      }
    }
  }

  // The gate's gradient from its parts: overwrites grad_sum with it.
  void put_gate(const Tile& tile, const TileGates<T>& gates) const {
    for (int64_t t = tile.length - 1; t >= 0; --t) {
      const int64_t row = t * sizes_.slots;
#pragma omp simd
      for (int64_t m = 0; m < sizes_.slots; ++m) {
        const T grad_write = s_.grad_write[row + m];
        s_.tail[m] += s_.grad_sum[row + m] - gates.write[row + m] * grad_write;
        s_.grad_sum[row + m] = s_.tail[m] - gates.alpha[row + m] * grad_write;
      }
    }
    put(tile, sizes_.slots, s_.grad_sum, grads_.log_alpha);
  }

  const GsaInputs<T>& in_;
  const GsaSizes& sizes_;
  const GsaGradients<T>& grads_;
  const GsaSaved<T>& saved_;
  const BackwardScratch<T>& s_;
  const Lane lane_;
};

// Scratch memory of a thread: the forward walk is over before the backward walk begins.
template <typename T>
size_t thread_bytes(const GsaSizes& sizes) {
  Pieces forward(nullptr);
  const ForwardScratch<T> forward_scratch(forward, sizes);
  Pieces backward(nullptr);
  const BackwardScratch<T> backward_scratch(backward, sizes);
  return std::max(forward.bytes(), backward.bytes());
}

template <typename T>
int64_t saved_count(const GsaForward& args) {
  return static_cast<int64_t>(GsaSaved<T>(Pieces(nullptr), args).bytes);
}

template <typename T>
size_t backward_workspace(const GsaForward& args) {
  Pieces memory(nullptr);
  number_chunks(memory, args, false);
  if (!args.saved) {
    memory.take<std::byte>(saved_count<T>(args));
  }
  return memory.bytes() + static_cast<size_t>(scratch_threads()) * thread_bytes<T>(GsaSizes(args));
}

template <typename T>
void backward(const GsaBackward& args, std::byte* workspace) {
  const GsaForward& forward = args.forward;
  const GsaInputs<T> in(forward);
  const GsaSizes& sizes = in.sizes;
  const GsaGradients<T> grads(args);
  Pieces memory(workspace);
  const int64_t* first_chunk = number_chunks(memory, forward, true);
  auto* saved_memory = forward.saved ? forward.saved.as<std::byte>()
                                     : memory.take<std::byte>(saved_count<T>(forward));
  const GsaSaved<T> saved(Pieces(saved_memory), forward);
  if (!forward.saved) {
    walk_forward(forward, ForwardTargets<T>{{}, nullptr, nullptr, &saved}, first_chunk, memory);
  }
  const auto scratch_bytes = static_cast<int64_t>(thread_bytes<T>(sizes));
  auto* scratch_memory = memory.take<std::byte>(scratch_threads() * scratch_bytes);
  // Heads whose states, and whose states' gradients, nobody tells apart are walked as one.
  const bool shared =
      shares_states(forward) && grads.initial_key == nullptr && grads.initial_value == nullptr;
  for_each_lane(sizes, shared, shares_states(forward), [&](const Lane& lane, int64_t thread) {
    Pieces pieces(scratch_memory + thread * scratch_bytes);
    const BackwardScratch<T> scratch(pieces, sizes);
    LaneBackward<T>(in, grads, saved, scratch, lane).run(first_chunk[lane.sequence]);
  });
}

}  // namespace

size_t gsa_chunked_backward_workspace(const GsaBackward& args) {
  size_t bytes = 0;
  with_real_type(args.forward.q.dtype(), "gsa_chunked_backward",
                 [&](auto zero) { bytes = backward_workspace<decltype(zero)>(args.forward); });
  return bytes + projected_workspace(args);
}

void gsa_chunked_backward(Stream& stream, const GsaBackward& args, std::byte* workspace) {
  if (args.forward.projected()) {
    run_projected(stream, args, workspace, gsa_activations, gsa_chunked_backward);
    return;
  }
  with_real_type(args.forward.q.dtype(), "gsa_chunked_backward", [&](auto zero) {
    require_saved_bytes(args.forward);
    backward<decltype(zero)>(args, workspace);
  });
}

}  // namespace gsa::kernels::cpu
