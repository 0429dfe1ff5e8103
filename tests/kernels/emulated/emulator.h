// Runs the code of a kernel on the CPU: clusters of blocks, each thread a fiber, in an order that a
// seed decides. What the copy engine brings lands late and out of turn.
//
// This is for kernels whose warps do different things and hand each other memory by barriers
// (kernels/cuda/async_copy.h): a wait that never ends, memory that is written while it is read, or
// an index gone wrong shows here, on any machine. What it cannot show is what only the hardware
// does: the order of memory where code asks for too little of it, and time. Instructions of a
// warpgroup (wgmma) are computed when they are issued.
//
// device/ has the kernels' headers as they are here. A test includes those of the kernel itself.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace gsa::emulated {

inline constexpr int warp_threads = 32;

struct Index {
  unsigned x = 0;
};

// A barrier of a number of threads that count from anew each time.
struct CountedBarrier {
  int arrived = 0;
  int64_t generation = 0;
};

// A barrier in shared memory, of arrivals and of bytes that land.
struct MemoryBarrier {
  int arrivals = 0;
  int pending = 0;
  int64_t bytes = 0;
  int phase = 0;

  void arrive(int64_t expected);
  void land(int64_t landed);

 private:
  void complete();
};

struct Block {
  unsigned number = 0;
  int rank = 0;  // in its cluster
  std::vector<unsigned char> storage;
  unsigned char* memory = nullptr;  // at a multiple of 1024 bytes
  size_t bytes = 0;
  std::map<uint32_t, MemoryBarrier> barriers;  // by offset
  std::map<int, CountedBarrier> numbered;
  int running = 0;  // threads that have not ended
};

struct Cluster {
  std::vector<Block> blocks;
  CountedBarrier barrier;
  CountedBarrier passing;  // of those that wait at it
};

struct Warp {
  CountedBarrier barrier;
  int value = 0;  // that one lane shows the others
  std::array<std::array<uint32_t, 4>, warp_threads> operands = {};  // of a product
};

// The thread that runs.
struct Thread {
  Index thread;
  Index block_number;
  Block* block = nullptr;
  Cluster* cluster = nullptr;
  Warp* warp = nullptr;
  // Of its own copies, how many each group has under way; the last group is not committed.
  mutable std::vector<std::shared_ptr<int>> copy_groups = {std::make_shared<int>(0)};
};
const Thread& current();
unsigned blocks_of_grid();
int threads_of_block();

// Lets others run until `ready`; `what` names the wait if it never ends.
void wait_until(const char* what, const std::function<bool()>& ready);
// Has the copy engine write to an address in shared memory, some time. That is an error if its
// block has ended by then.
void land_later(uint32_t target, std::function<void()> landing);

// Until the kernel in front has ended.
void wait_for_previous();

// All `total` arrive; those that `wait` go on when the last has come. Others may wait later, for
// the end of a generation.
void wait_for(const CountedBarrier& barrier, int64_t generation, const char* what);
void arrive_at(CountedBarrier& barrier, int total, bool wait, const char* what);

// An address in shared memory: the block's rank in the highest byte, then the offset. Its block has
// not ended.
uint32_t address_of(const void* pointer);
unsigned char* pointer_to(uint32_t address);
MemoryBarrier& barrier_at(uint32_t address);

struct Launch {
  int clusters = 1;
  int threads = warp_threads;  // of a block
  size_t shared_bytes = 0;
  int cluster_blocks = 2;
  std::function<void()> previous = nullptr;  // what the kernel in front leaves, some time
};
// Runs a kernel. Throws std::runtime_error if threads wait for ever, naming what they wait for, and
// if a barrier by number is left half full.
void run(const Launch& launch, const std::function<void()>& kernel, uint32_t seed);

}  // namespace gsa::emulated
