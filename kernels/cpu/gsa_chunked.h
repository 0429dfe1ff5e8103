// What the forward and the backward pass of the chunked form share on the CPU.
//
// States are kept at the start of each chunk (gsa_chunk tokens). Within a chunk the walk goes by
// tiles of 16 tokens: what earlier tiles wrote is read from the state as a matrix product, and the
// tokens of a tile meet pair by pair. The decay between two tokens is always a product of alphas
// (never e^b / e^b'), so no factor exceeds one, nothing overflows however harsh the gates, and a
// decay is right to rounding even where the running sum of log alpha is large. A tile of 16 costs
// fewer operations than a chunk of 64 would (the pairs grow with its square), and a tile's products
// are large enough for a processor's registers.
#pragma once

#include <algorithm>

#include "kernels/cpu/gsa_products.h"
#include "kernels/cpu/gsa_view.h"

namespace gsa::kernels::cpu {

inline constexpr int64_t gsa_tile = 16;
inline constexpr int64_t tiles_per_chunk = gsa_chunk / gsa_tile;
static_assert(gsa_chunk % gsa_tile == 0);

// At most gsa_tile tokens of one sequence.
struct Tile {
  int64_t first;   // its first token
  int64_t length;  // tokens
};

// Tile `index` of a stretch of tokens.
inline Tile tile_of(int64_t first, int64_t tokens, int64_t index) {
  return {first + index * gsa_tile, std::min(gsa_tile, tokens - index * gsa_tile)};
}
inline int64_t tiles_in(int64_t tokens) {
  return (tokens + gsa_tile - 1) / gsa_tile;
}

// The gates of a tile's tokens, each [tile, M].
template <typename T>
struct TileGates {
  TileGates(Pieces& memory, int64_t slot_count)
      : slots(slot_count),
        alpha(memory.take<T>(gsa_tile * slots)),
        write(memory.take<T>(gsa_tile * slots)),
        decay(memory.take<T>(gsa_tile * slots)),
        rest(memory.take<T>(gsa_tile * slots)),
        written(memory.take<T>(gsa_tile * slots)) {}

  // Fills in the gates of the tile's tokens.
  void compute(const GsaInputs<T>& in, const Tile& tile, int64_t head) const {
    for (int64_t t = 0; t < tile.length; ++t) {
      const int64_t row = t * slots;
      gates_of(slots, in.log_alpha.at(tile.first + t, head), alpha + row, write + row);
      for (int64_t m = 0; m < slots; ++m) {
        decay[row + m] = t == 0 ? alpha[m] : decay[row - slots + m] * alpha[row + m];
      }
    }
    for (int64_t t = tile.length - 1; t >= 0; --t) {
      const int64_t row = t * slots;
      for (int64_t m = 0; m < slots; ++m) {
        rest[row + m] =
            t + 1 == tile.length ? T(1) : rest[row + slots + m] * alpha[row + slots + m];
        written[row + m] = write[row + m] * rest[row + m];
      }
    }
  }
  // The decay over the whole tile, [M].
  const T* total(const Tile& tile) const { return decay + (tile.length - 1) * slots; }

  int64_t slots;
  T* alpha;
  T* write;    // s = 1 - alpha
  T* decay;    // from before the tile to after token t
  T* rest;     // from after token t to after the tile
  T* written;  // s * rest: what token t writes, as it is left after the tile
};

// The states after a tile from those before it (which may be the same memory).
template <typename T>
void advance_states(const GsaInputs<T>& in, const TileGates<T>& gates, const Tile& tile,
                    int64_t head, const T* key, const T* value, T* next_key, T* next_value) {
  const int64_t slots = in.sizes.slots;
  const int64_t value_dim = in.sizes.value_dim;
  const T* total = gates.total(tile);
  product(in.sizes.key_dim, slots, tile.length,
          Left<T>{in.k.at(tile.first, head), 1, in.k.stride()}, Right<T>{gates.written, slots},
          FromDecayedColumns<T>{key, slots, total}, Result<T>{next_key, slots});
  product(slots, value_dim, tile.length, Left<T>{gates.written, 1, slots},
          Right<T>{in.v.at(tile.first, head), in.v.stride()},
          FromDecayedRows<T>{value, value_dim, total}, Result<T>{next_value, value_dim});
}

// A tile's rows [tile, dim] turned into [dim, gsa_tile], the columns past its length zero: the
// right operand of products whose result has a column for each token.
template <typename T>
void turn_tile(const Tile& tile, int64_t dim, const T* rows, int64_t stride, T* turned) {
  if (tile.length < gsa_tile) {
    std::fill_n(turned, dim * gsa_tile, T(0));
  }
  transpose(tile.length, dim, rows, stride, turned, gsa_tile);
}

// Query heads of a group have the same states unless they start from different ones.
inline bool shares_states(const GsaForward& args) {
  return !args.initial_key_state && !args.initial_value_state;
}

// What the backward pass needs of the forward pass besides its inputs: in GsaForward::saved, or
// made again in the workspace of the backward pass.
template <typename T>
struct GsaSaved {
  GsaSaved(Pieces memory, const GsaForward& args)
      : sets(shares_states(args) ? args.heads() : args.query_heads()) {
    const GsaSizes sizes(args);
    const int64_t states = args.sequences.chunks() * sets;
    u = memory.take<T>(sizes.tokens * sizes.query_heads * sizes.slots);
    key_states = memory.take<T>(states * sizes.key_state());
    value_states = memory.take<T>(states * sizes.value_state());
    bytes = memory.bytes();
  }

  int64_t sets;     // of states: one a key/value head if shared, else one a query head
  T* u;             // [N, H_q, M], scaled
  T* key_states;    // [chunks, sets, K, M], at the start of each chunk
  T* value_states;  // [chunks, sets, M, V]
  size_t bytes;
};

// Throws std::invalid_argument if `saved` is given and too small.
void require_saved_bytes(const GsaForward& args);

// The query heads [first_head, last_head) of one key/value head, walked as one because they share
// their states.
struct Lane {
  int64_t sequence;
  int64_t head;  // the key/value head
  int64_t first_head;
  int64_t last_head;
  int64_t state_set;  // among the saved states
  bool adds;          // to the gradients that an earlier lane of the same key/value head wrote
};

// Calls body(lane, thread) for all lanes, those of one key/value head in order on one thread. A
// lane is a whole group of query heads, or one of them.
template <typename Body>
void for_each_lane(const GsaSizes& sizes, bool whole_groups, bool shared_states, const Body& body) {
  for_each_unit(sizes.units(), sizes.unit_work(), [&](int64_t unit, int64_t thread) {
    const int64_t head = unit % sizes.heads;
    const int64_t width = whole_groups ? sizes.group : 1;
    for (int64_t i = 0; i < sizes.group; i += width) {
      const int64_t first_head = head * sizes.group + i;
      body(Lane{unit / sizes.heads, head, first_head, first_head + width,
                shared_states ? head : first_head, i > 0},
           thread);
    }
  });
}

// first[i]: the number of chunks before sequence i.
inline int64_t* number_chunks(Pieces& memory, const GsaForward& args, bool fill) {
  const int64_t count = args.sequences.count();
  auto* first = memory.take<int64_t>(count);
  if (fill) {
    int64_t chunks = 0;
    for (int64_t i = 0; i < count; ++i) {
      first[i] = chunks;
      chunks += (args.sequences.host[i + 1] - args.sequences.host[i] + gsa_chunk - 1) / gsa_chunk;
    }
  }
  return first;
}

// Scratch memory of one thread in the forward pass.
template <typename T>
struct ForwardScratch {
  ForwardScratch(Pieces& memory, const GsaSizes& sizes)
      : gates(memory, sizes.slots),
        key_state(memory.take<T>(sizes.key_state())),
        value_state(memory.take<T>(sizes.value_state())),
        k_turned(memory.take<T>(sizes.key_dim * gsa_tile)),
        u(memory.take<T>(gsa_tile * sizes.slots)),
        trace(memory.take<T>(gsa_tile * sizes.slots)),
        qk(memory.take<T>(gsa_tile * gsa_tile)),
        pv(memory.take<T>(gsa_tile * gsa_tile)) {}

  TileGates<T> gates;
  T* key_state;    // [K, M], running
  T* value_state;  // [M, V]
  T* k_turned;     // [K, tile]
  T* u;            // [tile, M]; then p decayed to the start of the tile
  T* trace;        // [tile, M]: what each token wrote, decayed to the current token
  T* qk;           // [tile, tile]: scale * q_t . k_j
  T* pv;           // [tile, tile]: the weight of v_j in o_t
};

// What a forward walk leaves behind; anything may be absent.
template <typename T>
struct ForwardTargets {
  Heads<T> output;
  T* final_key = nullptr;
  T* final_value = nullptr;
  const GsaSaved<T>* saved = nullptr;
};

// Walks all sequences forward. `memory` lies over a workspace that has room for a ForwardScratch a
// thread.
template <typename T>
void walk_forward(const GsaForward& args, const ForwardTargets<T>& targets,
                  const int64_t* first_chunk, Pieces memory);

}  // namespace gsa::kernels::cpu
