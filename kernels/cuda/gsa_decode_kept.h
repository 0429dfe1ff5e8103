// What a block of gsa_decode_kept_step.h has: where it lies in the step and in its shared memory,
// and how states and tokens come there.
#pragma once

#include <algorithm>

#include "kernels/cuda/async_copy.h"
#include "kernels/cuda/gsa_decode_block.h"
#include "kernels/cuda/ring.h"

namespace gsa::kernels::cuda::gsa_decode_block {

inline constexpr int max_tokens = threads / warp_size;          // a warp a token
inline constexpr int block_threads = threads + warp_size;       // and a warp that copies
inline constexpr int chunk_quads = 4;                           // of a thread
inline constexpr int chunk_bytes = threads * chunk_quads * 16;  // at most
inline constexpr int max_chunks = 12;                           // of the ring
inline constexpr int max_dim = 1024;                            // K, V
static_assert(max_dim <= threads * quad, "a row of a state goes over the threads at once");

// Rows of a state that are copied at once: each thread has `chunk_quads` of their quads.
__device__ inline int chunk_rows(int columns) {
  return threads / (columns / quad) * chunk_quads;
}

// Where things lie in the block's shared memory, in bytes. Each begins at 16.
struct Layout {
  int ring;       // [chunks] of states
  int tokens;     // [period, row] as they were projected
  int weight;     // [period, slots]
  int log_alpha;  // [period, slots]
  int partial;    // [threads * quad]
  int decay;      // [slots] e^{b_j}
  int p;          // [slots]
  int faded;      // [slots] p e^{b_j}
  int q;          // [keys]
  int sums;       // [period] <k_i, q>, then <p, weight_i>
  int barriers;   // Shared
  int chunks;
  int under_way;  // chunks on their way at a time
  int end;

  // As many chunks as there is memory for.
  Layout(int memory, int token_bytes, int period, int keys, int slots) {
    int at = 0;
    const auto take = [&](int bytes) {
      const int here = at;
      at += (bytes + 15) / 16 * 16;
      return here;
    };
    const auto floats = [&](int count) { return take(count * int(sizeof(float))); };
    weight = floats(period * slots);
    log_alpha = floats(period * slots);
    partial = floats(threads * quad);
    decay = floats(slots);
    p = floats(slots);
    faded = floats(slots);
    q = floats(keys);
    sums = floats(period);
    tokens = take(period * token_bytes);
    barriers = take((1 + 2 * max_chunks) * 8);
    ring = (at + 127) / 128 * 128;
    chunks = std::min((memory - ring) / chunk_bytes, max_chunks);
    under_way = (chunks + 1) / 2;
    end = ring + chunks * chunk_bytes;
  }
};

template <typename T>
struct KeptArgs {
  DecodeArgs<T> decode;
  int row;  // elements of a kept token
  T* rows;
  const int32_t* step;
  int offset;
  int period;
  Layout layout;
};

// Which part of the step a block has.
struct Place {
  int unit;  // sequence and query head
  int sequence;
  int query_head;
  int head;

  template <typename T>
  __device__ explicit Place(const DecodeArgs<T>& args)
      : unit(int(blockIdx.x)),
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

template <typename T>
class Shared {
 public:
  T* tokens;
  float* weight;
  float* log_alpha;
  float* partial;
  float* decay;
  float* p;
  float* faded;
  float* q;
  float* sums;

  __device__ Shared(unsigned char* memory, const Layout& layout)
      : tokens(reinterpret_cast<T*>(memory + layout.tokens)),
        weight(floats(memory + layout.weight)),
        log_alpha(floats(memory + layout.log_alpha)),
        partial(floats(memory + layout.partial)),
        decay(floats(memory + layout.decay)),
        p(floats(memory + layout.p)),
        faded(floats(memory + layout.faded)),
        q(floats(memory + layout.q)),
        sums(floats(memory + layout.sums)),
        barriers_(shared_address(memory + layout.barriers)),
        ring_(memory + layout.ring) {}

  __device__ float* chunk(int i) const { return floats(ring_ + i * chunk_bytes); }

  // Barriers: the kept tokens are there; a chunk is full, or left by all threads that compute.
  __device__ uint32_t tokens_there() const { return barriers_; }
  __device__ uint32_t full(int chunk) const { return barriers_ + uint32_t(8 * (1 + chunk)); }
  __device__ uint32_t empty(int chunk) const { return full(max_chunks + chunk); }
  __device__ void leave(int chunk) const { arrive(empty(chunk)); }
  __device__ void wait_empty(int chunk, int round) const {
    wait_barrier(empty(chunk), (round & 1) ^ 1);
  }

  // By one thread.
  __device__ void init_barriers(int chunks) const {
    init_barrier(tokens_there(), 1);
    for (int chunk = 0; chunk < chunks; ++chunk) {
      init_barrier(full(chunk), 1);
      init_barrier(empty(chunk), threads);
    }
    publish_barriers();
  }

 private:
  __device__ static float* floats(unsigned char* memory) {
    return reinterpret_cast<float*>(memory);
  }
  uint32_t barriers_;
  unsigned char* ring_;
};

__device__ inline int warp_of_thread() {
  return int(threadIdx.x) / warp_size;
}
__device__ inline int lane_of_thread() {
  return int(threadIdx.x) % warp_size;
}
// The threads that compute.
__device__ inline void sync_computing() {
  sync_threads<1>(threads);
}

__device__ inline float4 quad_at(const float* memory) {
  return *reinterpret_cast<const float4*>(memory);
}

// Where the block's states lie.
template <typename T>
__device__ inline float* key_state(const KeptArgs<T>& args, const Place& place) {
  return args.decode.key_state + int64_t(place.unit) * args.decode.key_dim * args.decode.slots;
}
template <typename T>
__device__ inline float* value_state(const KeptArgs<T>& args, const Place& place) {
  return args.decode.value_state + int64_t(place.unit) * args.decode.slots * args.decode.value_dim;
}

// Copies a state into the ring, by a warp, of which one lane asks for the copies.
template <typename T>
__device__ inline void copy_state(const Shared<T>& shared, Filling& filling, const float* state,
                                  int rows, int columns, uint64_t policy) {
  const int at_once = chunk_rows(columns);
  for (int row = 0; row < rows; row += at_once) {
    const int bytes = min(at_once, rows - row) * columns * int(sizeof(float));
    const int chunk = filling.begin(shared);
    if (lane_of_thread() == 0) {
      arrive_expecting(shared.full(chunk), bytes);
      copy_bytes(shared_address(shared.chunk(chunk)), state + int64_t(row) * columns, bytes,
                 shared.full(chunk), policy);
    }
    __syncwarp();
  }
}

// take(row, quad) for each of the thread's quads of a state, as its chunks come.
template <typename T, typename Take>
__device__ __forceinline__ void walk_state(const Shared<T>& shared, Emptying& chunks,
                                           const Slice& slice, int columns, Take&& take) {
  const int at_once = chunk_rows(columns);
  for (int first = 0; first < slice.rows; first += at_once) {
    const float* there = shared.chunk(chunks.wait(shared)) + slice.column;
    if (slice.group < slice.groups) {
#pragma unroll
      for (int i = 0; i < chunk_quads; ++i) {
        const int row = slice.row(i);
        if (first + row < slice.rows) {
          take(first + row, quad_at(there + row * columns));
        }
      }
    }
    chunks.leave(shared);
  }
}

// A head's tokens kept before this step, by one thread.
template <typename T>
__device__ inline void copy_kept(const KeptArgs<T>& args, const Shared<T>& shared,
                                 const Place& place, const Phase& phase, uint64_t policy) {
  const int bytes = phase.kept * args.row * int(sizeof(T));
  arrive_expecting(shared.tokens_there(), bytes);
  if (bytes > 0) {
    const int64_t head = int64_t(place.sequence) * args.decode.heads + place.head;
    copy_bytes(shared_address(shared.tokens), args.rows + head * (args.period - 1) * args.row,
               bytes, shared.tokens_there(), policy);
  }
}

// A thread's share of `count` neighbouring columns, on their way together.
template <typename T, int most>
struct ThreadColumns {
  static constexpr int each = (most + threads - 1) / threads;
  int count;
  T columns[each] = {};

  __device__ ThreadColumns(const T* begin, int of) : count(of) {
    for_each([&](int at, T& column) { column = begin[at]; });
  }
  // take(place, column) for each of them.
  template <typename Take>
  __device__ void for_each(Take&& take) {
#pragma unroll
    for (int i = 0; i < each; ++i) {
      const int at = int(threadIdx.x) + i * threads;
      if (at < count) {
        take(at, columns[i]);
      }
    }
  }
  __device__ void copy_to(T* target) {
    for_each([&](int at, T& column) { target[at] = column; });
  }
};

// This step's q, activated, and its token behind the kept ones; which is kept too, by the head's
// first query head, in a row that nobody reads in this step.
template <typename T>
__device__ void load_newest(const KeptArgs<T>& args, const Shared<T>& shared, const Place& place,
                            const Phase& phase) {
  const DecodeArgs<T>& decode = args.decode;
  const int keys = decode.key_dim;
  const int values = decode.value_dim;
  const int slots = decode.slots;
  const T* projected = decode.projected.at(place.sequence, 0);
  const T* k_columns = projected + decode.query_heads * keys;
  const T* v_columns = k_columns + decode.heads * keys;
  const T* gate_columns = v_columns + decode.heads * values;
  ThreadColumns<T, max_dim> q(projected + place.query_head * keys, keys);
  ThreadColumns<T, max_dim> k(k_columns + place.head * keys, keys);
  ThreadColumns<T, max_dim> v(v_columns + place.head * values, values);
  ThreadColumns<T, max_slots> gate(gate_columns + place.head * slots, slots);
  q.for_each([&](int i, T column) { shared.q[i] = swish_of(column); });
  const auto copy_to = [&](T* row) {
    k.copy_to(row);
    v.copy_to(row + keys);
    gate.copy_to(row + keys + values);
  };
  copy_to(shared.tokens + phase.kept * args.row);
  if (!phase.writes && place.query_head % (decode.query_heads / decode.heads) == 0) {
    const int64_t head = int64_t(place.sequence) * decode.heads + place.head;
    copy_to(args.rows + (head * (args.period - 1) + phase.kept) * args.row);
  }
}

}  // namespace gsa::kernels::cuda::gsa_decode_block
