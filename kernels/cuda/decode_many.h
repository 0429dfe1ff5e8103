// A decode step of up to 64 sequences as one kernel (decode_many.cu): its table of operations, what
// a block keeps in shared memory, and how its warps, and the blocks of a cluster, meet.
#pragma once

#include "kernels/cuda/async_copy.h"
#include "kernels/cuda/decode_operations.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/wgmma.h"

namespace gsa::kernels::cuda::decode {

// Roles: 4 teams of 128 threads compute; a thread of one more copies weights and states, and that
// team's registers go to the others.
inline constexpr int teams = 4;
inline constexpr int taking_threads = teams * warpgroup_threads;
inline constexpr int taking_warps = taking_threads / warp_size;
inline constexpr int many_threads = taking_threads + warpgroup_threads;
inline constexpr int taking_registers = 112;
inline constexpr int copying_registers = 32;
inline constexpr int many_rows = 64;    // sequences at most
inline constexpr int many_cluster = 8;  // blocks

// A product's *unit* is 64 rows of weights (with swiglu 32 gates and their 32 ups, 8 of each in
// turn) and the depth of one block's part, in panels of 64 columns; a ring slot holds two panels.
inline constexpr int many_unit_rows = 64;
inline constexpr int slot_panels = 2;
inline constexpr int slot_bytes = slot_panels * panel_bytes;
inline constexpr int team_units = 2;  // that a team has sums of at a time
inline constexpr int column_tiles = many_rows / 8;
inline constexpr int unit_sums_bytes = many_unit_rows * many_rows * int(sizeof(float));

// Of GSA, a unit is a sequence's query head, a block's part 64 keys and 64 values of each slot: a
// ring slot each.
inline constexpr int many_slots = 64;
inline constexpr int many_part = 64;
inline constexpr int score_buffers = 2;  // that a team's units take in turn
static_assert(many_slots * many_part * int(sizeof(float)) == slot_bytes);

struct ManyOperation {
  bool is_gsa;
  int16_t first;  // the group of blocks that has the first unit
  int16_t split;  // blocks of a group: each has a part of a unit
  int units;      // of GSA: sequences times query heads
  union {
    LinearOperation linear;
    GsaOperation gsa;
  };
};

inline constexpr int max_many_operations = 140;
struct ManyStep {
  CUtensorMap maps[max_many_operations];  // of weights, of GSA values
  int rows;
  int count;
  uint32_t* arrivals;
  ManyOperation operations[max_many_operations];
};
static_assert(sizeof(ManyStep) <= 32764, "more than a launch can take");

// Shared memory: what follows; the ring; the operation's working memory, which is the input of a
// product and then its sums for other blocks, or the tokens of GSA units.
inline constexpr int ring_slots = 8;
struct ManyFixed {
  float squares[many_rows];  // of the input's part
  uint64_t full[ring_slots];
  uint64_t empty[ring_slots];
  uint64_t sums;   // all blocks of the group have their sums in shared memory
  uint64_t taken;  // all of them have taken what they need
  uint64_t scores[teams][score_buffers];  // a team's unit has all parts of its scores
};
inline constexpr int fixed_bytes = 1024;
static_assert(sizeof(ManyFixed) <= fixed_bytes);
inline constexpr int many_shared_bytes = 227 << 10;
inline constexpr int work_bytes = many_shared_bytes - fixed_bytes - ring_slots * slot_bytes;
inline constexpr int part_panels = work_bytes / panel_bytes;     // of an input, at most
inline constexpr int part_units = work_bytes / unit_sums_bytes;  // of a product, at most
static_assert(part_units <= teams * team_units);
// See wait_for_slot; and while a team waits for a slot it holds on to its last one.
static_assert(part_units < ring_slots && 2 * teams <= ring_slots);

struct ManyShared {
  unsigned char* ring;
  unsigned char* work;
  ManyFixed* fixed;

  __device__ explicit ManyShared(unsigned char* memory)
      : ring(memory + fixed_bytes),
        work(ring + ring_slots * slot_bytes),
        fixed(reinterpret_cast<ManyFixed*>(memory)) {}
  __device__ uint32_t full(int slot) const { return shared_address(&fixed->full[slot]); }
  __device__ uint32_t empty(int slot) const { return shared_address(&fixed->empty[slot]); }
  __device__ unsigned char* slot(int slot) const { return ring + slot * slot_bytes; }
};

// Where a role is in the ring.
struct RingPlace {
  int slot = 0;
  int phase = 0;
  __device__ void advance(int by) {
    slot += by;
    phase ^= slot / ring_slots & 1;
    slot %= ring_slots;
  }
};

// Begins copying the box at (column, row, 0, eight) of weights or of values.
__device__ inline void copy_matrix_box(uint32_t target, const CUtensorMap& map, int column, int row,
                                       int eight, uint32_t barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".L2::cache_hint [%0], [%1, {%3, %4, %5, %6}], [%2], %7;\n" ::"r"(target),
      "l"(&map), "r"(barrier), "r"(column), "r"(row), "r"(0), "r"(eight), "l"(policy)
      : "memory");
}

// Waits for a slot that the calling team takes, and which it has waited for in turn for no more
// than a round of the ring. Copies may come in out of turn: only once the slot has been left for
// the last time can the phase of its copy be told from that of the round before.
__device__ inline void wait_for_slot(const ManyShared& shared, const RingPlace& at) {
  wait_barrier(shared.empty(at.slot), at.phase ^ 1);
  wait_barrier(shared.full(at.slot), at.phase);
}

__device__ inline void sync_taking() {
  __syncwarp();
  sync_threads<1>(taking_threads);
}

// A thread's arrival at a barrier of another block of the cluster, and the wait for such arrivals:
// what was written before them (and before a barrier of the block) is seen behind the wait.
__device__ inline void arrive_in_cluster(uint32_t barrier) {
  asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];\n" ::"r"(barrier)
               : "memory");
}
__device__ inline void wait_in_cluster(uint32_t barrier, int phase) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n}\n" ::"r"(barrier),
      "r"(phase)
      : "memory");
}

// Tells the blocks of a group: by 8 threads, once all that have something to tell have passed a
// barrier.
__device__ inline void tell_group(uint64_t& barrier, int split, int thread) {
  if (thread < many_cluster) {
    const int rank = cluster_rank();
    const int first = rank - rank % split;
    arrive_in_cluster(address_in_block(shared_address(&barrier), first + thread % split));
  }
}

// The blocks of a group tell each other that sums are there, and that they have been taken.
class GroupMeeting {
 public:
  __device__ void tell_sums(ManyFixed& fixed, int split) const {
    tell_group(fixed.sums, split, int(threadIdx.x));
  }
  __device__ void wait_for_sums(ManyFixed& fixed) {
    wait_in_cluster(shared_address(&fixed.sums), sums_phase_);
    sums_phase_ ^= 1;
  }
  __device__ void tell_taken(ManyFixed& fixed, int split) {
    // By the last warp: the first one has other blocks to meet.
    tell_group(fixed.taken, split, taking_threads - 1 - int(threadIdx.x));
    owed_ = true;
  }
  // Working memory may be written again.
  __device__ void wait_until_taken(ManyFixed& fixed) {
    if (owed_) {
      wait_in_cluster(shared_address(&fixed.taken), taken_phase_);
      taken_phase_ ^= 1;
      owed_ = false;
    }
  }

 private:
  int sums_phase_ = 0;
  int taken_phase_ = 0;
  bool owed_ = false;
};

// Which units of an operation a group of blocks has: every `step`-th from `first`.
struct UnitPlace {
  int first;
  int step;
  int count;

  __device__ UnitPlace(const ManyOperation& operation) {
    step = int(unsigned(gridDim.x) / unsigned(operation.split));
    first = int(unsigned(blockIdx.x) / unsigned(operation.split)) - operation.first;
    first += first < 0 ? step : 0;
    count = first < operation.units
                ? int(unsigned(operation.units - first + step - 1) / unsigned(step))
                : 0;
  }
  __device__ int unit(int i) const { return first + i * step; }
};

// This block's part of a product's depth.
struct DepthPlace {
  int part;
  int first;   // panel
  int panels;  // may be none

  __device__ DepthPlace(const ManyOperation& operation) {
    const unsigned split = unsigned(operation.split);
    const unsigned all = unsigned(operation.linear.columns + panel_columns - 1) / panel_columns;
    part = int(blockIdx.x % split);
    first = int(all * unsigned(part) / split);
    panels = int(all * unsigned(part + 1) / split) - first;
  }
};

// Working memory of a GSA step, in floats: sums of each warp over its keys and its values; scores
// of each team's units from all parts; the tokens' parts: q, k, v, alpha, 1 - alpha.
struct GsaWork {
  static constexpr int team_warps = warpgroup_threads / warp_size;
  static constexpr int key_sums = 0;
  static constexpr int value_sums = key_sums + teams * team_warps * many_slots;
  static constexpr int scores = value_sums + teams * team_warps * many_part;
  static constexpr int tokens = scores + teams * score_buffers * many_cluster * many_slots;
  static constexpr int token = 3 * many_part + 2 * many_slots;
  static constexpr int64_t bytes(int64_t units) {
    return (tokens + units * token) * int64_t(sizeof(float));
  }
};

}  // namespace gsa::kernels::cuda::decode
