// kernels/cuda/async_copy.h on the emulator.
#pragma once

#include <array>

#include "kernels/cuda/mma.h"

// A matrix in memory, of which boxes of `box_rows` rows of 64 columns are copied, or of some such
// side by side.
struct CUtensorMap {
  const gsa::kernels::cuda::bfloat16* data = nullptr;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t stride = 0;
  int box_rows = 0;
  int box_panels = 1;
};

namespace gsa::kernels::cuda {

inline unsigned char* block_memory() {
  return emulated::current().block->memory;
}
template <int registers>
void give_registers() {}
template <int registers>
void take_registers() {}

inline void sync_threads(int barrier, int threads) {
  emulated::arrive_at(emulated::current().block->numbered[barrier], threads, true,
                      "a barrier by number");
}
template <int barrier>
void sync_threads(int threads) {
  sync_threads(barrier, threads);
}
inline void arrive_threads(int barrier, int threads) {
  emulated::arrive_at(emulated::current().block->numbered[barrier], threads, false,
                      "a barrier by number");
}
inline void __syncwarp() {
  emulated::arrive_at(emulated::current().warp->barrier, warp_size, true, "its warp");
}

inline int __shfl_sync(unsigned /*mask*/, int x, int lane) {
  emulated::Warp& warp = *emulated::current().warp;
  if (int(threadIdx.x) % warp_size == lane) {
    warp.value = x;
  }
  __syncwarp();
  const int value = warp.value;
  __syncwarp();
  return value;
}

inline float __shfl_xor_sync(unsigned /*mask*/, float x, unsigned lanes) {
  emulated::Warp& warp = *emulated::current().warp;
  const unsigned lane = threadIdx.x % warp_size;
  warp.operands[lane][0] = std::bit_cast<uint32_t>(x);
  __syncwarp();
  const auto other = std::bit_cast<float>(warp.operands[lane ^ lanes][0]);
  __syncwarp();
  return other;
}

inline void init_barrier(uint32_t barrier, int arrivals) {
  emulated::barrier_at(barrier) = {.arrivals = arrivals, .pending = arrivals};
}
inline void publish_barriers() {}
inline void arrive(uint32_t barrier) {
  emulated::barrier_at(barrier).arrive(0);
}
inline void arrive_expecting(uint32_t barrier, int bytes) {
  emulated::barrier_at(barrier).arrive(bytes);
}
inline void wait_barrier(uint32_t barrier, int phase) {
  const emulated::MemoryBarrier& there = emulated::barrier_at(barrier);
  emulated::wait_until("a barrier in memory", [&] { return there.phase != phase; });
}

inline int cluster_rank() {
  return emulated::current().block->rank;
}
inline int cluster_threads() {
  return int(emulated::current().cluster->blocks.size()) * emulated::threads_of_block();
}
inline void sync_cluster() {
  emulated::arrive_at(emulated::current().cluster->barrier, cluster_threads(), true, "its cluster");
}
// Of kernels that do this once.
inline void cluster_arrive_relaxed() {
  emulated::arrive_at(emulated::current().cluster->barrier, cluster_threads(), false,
                      "its cluster");
}
// Nobody goes on before all wait there: more than a GPU asks for, but under racecheck a kernel
// whose threads help each other past this barrier did not end.
inline void cluster_wait() {
  emulated::wait_for(emulated::current().cluster->barrier, 0, "its cluster");
  emulated::arrive_at(emulated::current().cluster->passing, cluster_threads(), true, "its cluster");
}
inline uint32_t address_in_block(uint32_t address, int rank) {
  constexpr int rank_shift = 24;
  return (address & ((1U << rank_shift) - 1)) | uint32_t(rank) << rank_shift;
}
inline void arrive_in_block(uint32_t barrier, int rank) {
  arrive(address_in_block(barrier, rank));
}

inline int load_word(uint32_t address) {
  int x = 0;
  std::memcpy(&x, emulated::pointer_to(address), sizeof(x));
  return x;
}
inline void load_handed(uint32_t address, float (&x)[4]) {
  std::memcpy(x, emulated::pointer_to(address), sizeof(x));
}
inline void hand_over(uint32_t target, const float (&x)[4], uint32_t barrier) {
  unsigned char* there = emulated::pointer_to(target);
  emulated::MemoryBarrier& told = emulated::barrier_at(barrier);
  const std::array<float, 4> handed = {x[0], x[1], x[2], x[3]};
  emulated::land_later(target, [=, &told] {
    std::memcpy(there, handed.data(), sizeof(handed));
    told.land(sizeof(handed));
  });
}
inline void hand_over_word(uint32_t target, int x, uint32_t barrier) {
  unsigned char* there = emulated::pointer_to(target);
  emulated::MemoryBarrier& told = emulated::barrier_at(barrier);
  emulated::land_later(target, [=, &told] {
    std::memcpy(there, &x, sizeof(x));
    told.land(sizeof(x));
  });
}

inline uint64_t read_once() {
  return 0;
}
inline void copy_bytes(uint32_t target, const void* source, int bytes, uint32_t barrier,
                       uint64_t /*policy*/ = 0) {
  unsigned char* there = emulated::pointer_to(target);
  emulated::MemoryBarrier& told = emulated::barrier_at(barrier);
  emulated::land_later(target, [=, &told] {
    std::memcpy(there, source, size_t(bytes));
    told.land(bytes);
  });
}

inline void prefetch_map(const CUtensorMap& /*map*/) {}
inline void copy_panels(uint32_t target, const CUtensorMap& map, int column, int row,
                        uint32_t barrier) {
  unsigned char* block = emulated::pointer_to(target & ~0xffffffU);
  const uint32_t offset = target & 0xffffffU;
  emulated::MemoryBarrier& told = emulated::barrier_at(barrier);
  emulated::land_later(target, [=, &told] {
    for (int i = 0; i < map.box_rows; ++i) {
      for (int j = 0; j < panel_columns; ++j) {
        const bool exists = row + i < map.rows && column + j < map.columns;
        const bfloat16 x = exists ? map.data[(row + i) * map.stride + column + j] : bfloat16{};
        const int at = i * panel_row_bytes + j * int(sizeof(bfloat16));
        std::memcpy(block + swizzled(offset + uint32_t(at)), &x, sizeof(x));
      }
    }
    told.land(map.box_rows * panel_row_bytes);
  });
}
inline void copy_row_group(uint32_t target, const CUtensorMap& map, int row, int panel,
                           uint32_t barrier, uint64_t /*policy*/) {
  for (int i = 0; i < map.box_panels; ++i) {
    copy_panels(target + uint32_t(i * map.box_rows * panel_row_bytes), map,
                (panel + i) * panel_columns, row, barrier);
  }
}
inline void copy_panels_to_both(uint32_t target, const CUtensorMap& map, int column, int row,
                                uint32_t barrier) {
  constexpr int both = 2;
  for (int rank = 0; rank < both; ++rank) {
    copy_panels(address_in_block(target, rank), map, column, row, address_in_block(barrier, rank));
  }
}

}  // namespace gsa::kernels::cuda
