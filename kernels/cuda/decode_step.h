// A decode step as one kernel (decode_step.cu): its table of operations, what a block keeps in
// shared memory, and how blocks and the roles of their warps meet.
#pragma once

#include "kernels/cuda/async_copy.h"
#include "kernels/cuda/decode_operations.h"
#include "kernels/cuda/decode_workspace.h"

namespace gsa::kernels::cuda::decode {

// Roles: 8 warps multiply (and take the GSA steps), 2 finish sums, 1 copies weights.
inline constexpr int multiply_warps = 8;
inline constexpr int finish_warps = 2;
inline constexpr int multiply_threads = multiply_warps * warp_size;
inline constexpr int finish_threads = finish_warps * warp_size;
inline constexpr int step_threads = multiply_threads + finish_threads + warp_size;

// Weights: a *unit* is 8 of their rows (with swiglu 4 gates and their 4 ups), a *chunk* up to 2048
// columns of a unit, a *tile* 256 columns, 32 for each multiplying warp.
inline constexpr int step_rows = 8;  // sequences at most
inline constexpr int unit_rows = 8;
inline constexpr int lane_columns = 8;
inline constexpr int warp_columns = 32;
inline constexpr int tile_columns = multiply_warps * warp_columns;
inline constexpr int chunk_tiles = 8;
inline constexpr int chunk_columns = chunk_tiles * tile_columns;
inline constexpr int max_tiles = 27;       // of an input's columns
inline constexpr int max_norm_tiles = 10;  // of one with a norm

struct Operation {
  bool is_gsa;
  int first;  // the block that has the first unit or part, the next one the second, and so on
  int units;  // of a product, or parts
  union {
    LinearOperation linear;
    GsaOperation gsa;
  };
};

// The kernel's arguments: they come with the launch, so that a recorded step needs no memory of its
// own.
inline constexpr int max_operations = 256;
struct Step {
  int rows;
  int count;
  uint32_t* arrivals;
  uint64_t* scores;
  Operation operations[max_operations];
};
static_assert(sizeof(Step) <= 32764, "more than a launch can take");

// This block's first unit or part of an operation; `units` or more if it has none.
__device__ inline int first_unit(const Operation& operation) {
  const int place = int(blockIdx.x) - operation.first;
  return place < 0 ? place + int(gridDim.x) : place;
}
__device__ inline bool has_units(const Operation& operation) {
  return first_unit(operation) < operation.units;
}

// Shared memory. A row of a chunk begins 64 bytes off a multiple of 128, and so do the eight lanes
// that read two rows at once in different banks.
inline constexpr int ring_chunks = 6;
inline constexpr int halves = 2;  // of a chunk, 4 rows each
inline constexpr int chunk_row_bytes = chunk_columns * int(sizeof(bfloat16)) + 64;
inline constexpr int chunk_bytes = unit_rows * chunk_row_bytes;
inline constexpr int sum_slots = 8;
inline constexpr int unit_sums = unit_rows * step_rows;

inline constexpr int max_parts = 3;  // of a GSA step that a block has
inline constexpr int part_dim = int(decode_part);
inline constexpr int part_slots = 64;
inline constexpr int max_ranks = 8;  // parts of a head

struct GsaShared {
  struct Token {
    float q[part_dim];
    float k[part_dim];
    float v[part_dim];
    float alpha[part_slots];
    float write[part_slots];  // 1 - alpha
  };
  Token tokens[max_parts];
  float partial[max_parts][multiply_warps][part_dim];
  float scores[max_parts][max_ranks][part_slots];
  float p[max_parts][part_slots];
};

struct alignas(128) StepShared {
  unsigned char ring[ring_chunks][chunk_bytes];
  union {
    float sums[sum_slots][multiply_warps][unit_sums];
    GsaShared gsa;
  };
  float squares[multiply_warps][step_rows];
  uint64_t weights_full[ring_chunks][halves];
  uint64_t weights_empty[ring_chunks];
  uint64_t sums_full[sum_slots];
  uint64_t sums_empty[sum_slots];
  uint64_t ready;  // the operation's input
};
static_assert(sizeof(StepShared) <= size_t{227} << 10, "a multiprocessor's shared memory");
static_assert(part_slots == part_dim, "sums over both lie in the same memory");

// Where a role is in a ring of slots.
template <int slots>
struct Cursor {
  int slot = 0;
  int phase = 0;
  __device__ void advance() {
    if (++slot == slots) {
      slot = 0;
      phase ^= 1;
    }
  }
};

// Barriers of some of the block's threads, by number.
enum NamedBarrier { multiply_barrier = 1, finish_barrier = 2, done_barrier = 3 };

// The finishing warps wait here for the multiplying ones where no sums come from them. In one way
// or the other they do so in every operation: no warp is two operations behind.
__device__ inline void tell_finishing() {
  arrive_threads(done_barrier, multiply_threads + finish_threads);
}
__device__ inline void wait_for_multiplying() {
  sync_threads(done_barrier, multiply_threads + finish_threads);
}
__device__ inline void sync_multiplying() {
  sync_threads(multiply_barrier, multiply_threads);
}

}  // namespace gsa::kernels::cuda::decode
