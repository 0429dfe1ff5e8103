// What a block of gsa_decode_kept_step.h has: where it lies in the step and in its shared memory,
// and how states and tokens come there.
#pragma once

#include <algorithm>

#include "kernels/cuda/async_copy.h"
#include "kernels/cuda/gsa_decode_block.h"

namespace gsa::kernels::cuda::gsa_decode_block {

inline constexpr int max_tokens = threads / warp_size;  // a warp a token
static_assert(max_tokens * max_slots <= threads * quad, "log alpha lies where partial sums do");

// Where things lie in the block's shared memory, in floats.
struct Layout {
  int key_state = 0;  // [keys, slots]
  int value_state;    // [slots, values]
  int weight;         // [period, slots]
  int v;              // [period, values]
  int partial;        // [threads * quad]; before: log alpha [tokens, slots]
  int decay;          // [slots] e^{b_j}
  int others;         // [cluster - 1, slots] u of the other blocks' rows
  int barrier;        // of what the others hand over
  int p;              // [max(keys, slots)] q; then u of this block's rows; then p
  int sums;           // [period] <k_i, q>, then <p, weight_i>
  int k;              // [period, keys]
  int end;

  // What is read in quads comes first: slots and values are multiples of four.
  Layout(int cluster, int period, int keys, int values, int slots)
      : value_state(key_state + keys * slots),
        weight(value_state + slots * values),
        v(weight + period * slots),
        partial(v + period * values),
        decay(partial + threads * quad),
        others(decay + slots),
        barrier(others + (cluster - 1) * slots),
        p(barrier + quad),
        sums(p + std::max(keys, slots)),
        k(sums + period),
        end(k + period * keys) {}
};

template <typename T>
struct KeptArgs {
  DecodeArgs<T> decode;
  int keys;    // rows of the slots' keys that a block has
  int values;  // columns of the slots' values that a block has
  int row;     // elements of a kept token
  T* rows;
  const int32_t* step;
  int offset;
  int period;
  Layout layout;
};

// Which part of the step a block has.
struct Place {
  int rank;
  int unit;  // sequence and query head
  int sequence;
  int query_head;
  int head;

  template <typename T>
  __device__ explicit Place(const DecodeArgs<T>& args)
      : rank(args.cluster > 1 ? cluster_rank() : 0),
        unit(int(blockIdx.x / unsigned(args.cluster))),
        sequence(int(unsigned(unit) / unsigned(args.query_heads))),
        query_head(unit - sequence * args.query_heads),
        head(int(unsigned(query_head) / (unsigned(args.query_heads) / unsigned(args.heads)))) {}
};

// Where this step is between two writings of the states.
struct Phase {
  int kept;     // tokens that the states do not have, but this step's
  bool writes;  // the states, in this step

  template <typename T>
  __device__ explicit Phase(const KeptArgs<T>& args) {
    const int step = *args.step;
    const int phase = int(unsigned(step + args.offset) % unsigned(args.period));
    kept = min(step, phase);
    writes = phase == args.period - 1;
  }
  __device__ int tokens() const { return kept + 1; }
};

struct Shared {
  float* key_state;
  float* value_state;
  float* weight;
  float* v;
  float* partial;
  float* decay;
  float* others;
  float* q;
  float* p;
  float* sums;
  float* k;
  uint32_t barrier;

  __device__ Shared(float* memory, const Layout& layout)
      : key_state(memory + layout.key_state),
        value_state(memory + layout.value_state),
        weight(memory + layout.weight),
        v(memory + layout.v),
        partial(memory + layout.partial),
        decay(memory + layout.decay),
        others(memory + layout.others),
        q(memory + layout.p),
        p(memory + layout.p),
        sums(memory + layout.sums),
        k(memory + layout.k),
        barrier(shared_address(memory + layout.barrier)) {}
};

__device__ inline int warp_of_thread() {
  return int(threadIdx.x) / warp_size;
}
__device__ inline int lane_of_thread() {
  return int(threadIdx.x) % warp_size;
}

__device__ inline float4 quad_at(const float* memory) {
  return *reinterpret_cast<const float4*>(memory);
}

// Where the block's parts of the states lie.
template <typename T>
__device__ inline float* key_part(const KeptArgs<T>& args, const Place& place) {
  return args.decode.key_state +
         (int64_t(place.unit) * args.decode.key_dim + place.rank * args.keys) * args.decode.slots;
}
template <typename T>
__device__ inline float* value_part(const KeptArgs<T>& args, const Place& place) {
  return args.decode.value_state + int64_t(place.unit) * args.decode.slots * args.decode.value_dim +
         place.rank * args.values;
}

// Begins copying a slice of a state, rows `stride` elements apart; each thread copies the quads
// that it will read.
__device__ inline void copy_state(float* target, const float* source, const Slice& slice,
                                  int columns, int stride) {
  if (slice.group < slice.groups) {
#pragma unroll 4
    for (int row = slice.group; row < slice.rows; row += slice.groups) {
      copy_piece(shared_address(target + row * columns + slice.column),
                 source + int64_t(row) * stride + slice.column, true);
    }
  }
  commit_copies();
}

// Columns of a token's row that a lane takes: every 32nd of `count` from `begin` on.
template <typename T>
struct LaneColumns {
  static constexpr int most = std::max(max_part, max_slots) / warp_size;
  int begin;
  int count;
  T columns[most];

  __device__ LaneColumns(const T* row, int from, int of) : begin(from), count(of) {
#pragma unroll
    for (int i = 0; i < most; ++i) {
      const int at = lane_of_thread() + i * warp_size;
      if (at < count) {
        columns[i] = row[begin + at];
      }
    }
  }
  // take(place, column) for each of them.
  template <typename Take>
  __device__ void for_each(Take&& take) const {
#pragma unroll
    for (int i = 0; i < most; ++i) {
      const int at = lane_of_thread() + i * warp_size;
      if (at < count) {
        take(at, columns[i]);
      }
    }
  }
  __device__ void copy_to(T* row) const {
    for_each([&](int at, T column) { row[begin + at] = column; });
  }
};

// A token's columns, by a warp, all on their way at once: activated to shared memory, and if `kept`
// is there as they are to the row kept for it. Rows begin with the columns of k.
template <typename T>
__device__ void load_token(const KeptArgs<T>& args, const Shared& shared, const Place& place,
                           int token, const T* row, T* kept) {
  const DecodeArgs<T>& decode = args.decode;
  const int v_begin = decode.heads * decode.key_dim;
  const int gate_begin = v_begin + decode.heads * decode.value_dim;
  const LaneColumns<T> k(row, place.head * decode.key_dim + place.rank * args.keys, args.keys);
  const LaneColumns<T> v(row, v_begin + place.head * decode.value_dim + place.rank * args.values,
                         args.values);
  const LaneColumns<T> gate(row, gate_begin + place.head * decode.slots, decode.slots);
  k.for_each([&](int i, T column) { shared.k[token * args.keys + i] = swish_of(column); });
  v.for_each([&](int i, T column) { shared.v[token * args.values + i] = swish_of(column); });
  gate.for_each([&](int m, T column) {
    shared.partial[token * decode.slots + m] = log_alpha_of(column, decode.gate_factor);
  });
  if (kept != nullptr) {
    k.copy_to(kept);
    v.copy_to(kept);
    if (place.rank == 0) {
      gate.copy_to(kept);
    }
  }
}

// The tokens kept before this step, a warp each.
template <typename T>
__device__ void load_kept(const KeptArgs<T>& args, const Shared& shared, const Place& place,
                          const Phase& phase) {
  const int token = warp_of_thread();
  if (token < phase.kept) {
    const int64_t index = int64_t(place.sequence) * (args.period - 1) + token;
    load_token<T>(args, shared, place, token, args.rows + index * args.row, nullptr);
  }
}

// This step's token by one warp, q by the others.
template <typename T>
__device__ void load_newest(const KeptArgs<T>& args, const Shared& shared, const Place& place,
                            const Phase& phase) {
  const DecodeArgs<T>& decode = args.decode;
  const T* projected = decode.projected.at(place.sequence, 0);
  const int ahead = (warp_of_thread() - phase.kept + max_tokens) % max_tokens;
  if (ahead == 0) {
    const bool keeps = !phase.writes && place.query_head % (decode.query_heads / decode.heads) == 0;
    const int64_t index = int64_t(place.sequence) * (args.period - 1) + phase.kept;
    load_token<T>(args, shared, place, phase.kept, projected + decode.query_heads * decode.key_dim,
                  keeps ? args.rows + index * args.row : nullptr);
    return;
  }
  const T* q = projected + place.query_head * decode.key_dim + place.rank * args.keys;
#pragma unroll 1
  for (int i = (ahead - 1) * warp_size + lane_of_thread(); i < args.keys;
       i += threads - warp_size) {
    shared.q[i] = swish_of(q[i]);
  }
}

}  // namespace gsa::kernels::cuda::gsa_decode_block
