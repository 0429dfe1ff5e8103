#include "tests/kernels/emulated/emulator.h"

#include <ucontext.h>

#include <algorithm>
#include <exception>
#include <memory>
#include <stdexcept>
#include <utility>

namespace gsa::emulated {
namespace {

constexpr size_t stack_bytes = size_t{64} << 10;
constexpr uintptr_t memory_alignment = 1024;
constexpr int rank_shift = 24;
constexpr uint32_t offset_mask = (1U << rank_shift) - 1;

struct Fiber {
  Thread thread;
  ucontext_t context{};
  std::vector<unsigned char> stack = std::vector<unsigned char>(stack_bytes);
  const char* waits_for = "";
  bool is_done = false;
  std::exception_ptr error;
};

// What runs: one kernel at a time.
struct Machine {
  const std::function<void()>* kernel = nullptr;
  unsigned blocks = 0;
  int threads = 0;
  std::vector<std::unique_ptr<Cluster>> clusters;
  std::vector<std::unique_ptr<Warp>> warps;
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<std::function<void()>> landings;
  Fiber* running = nullptr;
  ucontext_t scheduler{};
  bool has_moved = false;
  bool previous_has_ended = true;
  std::mt19937 random;
};
std::unique_ptr<Machine> machine;

void run_fiber() {
  Fiber& fiber = *machine->running;
  try {
    (*machine->kernel)();
  } catch (...) {
    fiber.error = std::current_exception();
  }
  fiber.is_done = true;
  --fiber.thread.block->running;
  machine->has_moved = true;
  swapcontext(&fiber.context, &machine->scheduler);
}

void prepare_block(Block& block, unsigned number, int rank, size_t shared_bytes) {
  constexpr unsigned char rubbish = 0xFF;  // no numbers in any format
  block.number = number;
  block.rank = rank;
  block.storage.assign(shared_bytes + memory_alignment, rubbish);
  const auto start = reinterpret_cast<uintptr_t>(block.storage.data());
  block.memory = block.storage.data() + (memory_alignment - start % memory_alignment);
  block.bytes = shared_bytes;
}

void prepare(Fiber& fiber) {
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.data();
  fiber.context.uc_stack.ss_size = fiber.stack.size();
  makecontext(&fiber.context, run_fiber, 0);
}

void add_block(Cluster& cluster, Block& block) {
  block.running = machine->threads;
  for (int i = 0; i < machine->threads; ++i) {
    if (i % warp_threads == 0) {
      machine->warps.push_back(std::make_unique<Warp>());
    }
    auto fiber = std::make_unique<Fiber>();
    fiber->thread = {.thread = {unsigned(i)},
                     .block_number = {block.number},
                     .block = &block,
                     .cluster = &cluster,
                     .warp = machine->warps.back().get()};
    prepare(*fiber);
    machine->fibers.push_back(std::move(fiber));
  }
}

void expect_running(const Block& block) {
  if (block.running == 0) {
    throw std::logic_error("something is sent to a block that has ended");
  }
}
Block& block_at(uint32_t address) {
  Block& block = current().cluster->blocks[address >> rank_shift];
  expect_running(block);
  return block;
}

// Lands some of what is under way, in any order: a few, or up to a quarter of many.
void land_some() {
  constexpr size_t few = 4;
  std::vector<std::function<void()>>& landings = machine->landings;
  const size_t most = std::max(few, landings.size() / 4);
  std::shuffle(landings.begin(), landings.end(), machine->random);
  for (size_t count = machine->random() % most; count > 0 && !landings.empty(); --count) {
    const std::function<void()> landing = std::move(landings.back());
    landings.pop_back();
    landing();
    machine->has_moved = true;
  }
}

// What is waited for, and by how many.
std::string hang() {
  std::map<std::string, int> waits;
  for (const auto& fiber : machine->fibers) {
    ++waits[fiber->waits_for];
  }
  std::string text = "a kernel does not end:";
  for (const auto& [what, count] : waits) {
    text += " " + std::to_string(count) + " threads wait for " + what + ";";
  }
  return text;
}

// Every barrier by number has been passed by all that arrived there.
void expect_no_arrivals_left() {
  for (const auto& cluster : machine->clusters) {
    for (const Block& block : cluster->blocks) {
      for (const auto& [number, barrier] : block.numbered) {
        if (barrier.arrived > 0) {
          throw std::runtime_error("a kernel ends with barrier " + std::to_string(number) +
                                   " half full");
        }
      }
    }
  }
}

void run_round() {
  std::vector<std::unique_ptr<Fiber>>& fibers = machine->fibers;
  constexpr unsigned seldom = 4;
  if (machine->random() % seldom == 0) {
    std::shuffle(fibers.begin(), fibers.end(), machine->random);
  }
  for (const auto& fiber : fibers) {
    machine->running = fiber.get();
    swapcontext(&machine->scheduler, &fiber->context);
    if (fiber->error) {
      std::rethrow_exception(fiber->error);
    }
  }
  fibers.erase(std::remove_if(fibers.begin(), fibers.end(),
                              [](const auto& fiber) { return fiber->is_done; }),
               fibers.end());
}

}  // namespace

void MemoryBarrier::arrive(int64_t expected) {
  if (pending == 0) {
    throw std::logic_error("more arrivals at a barrier in memory than it was made for");
  }
  --pending;
  bytes += expected;
  complete();
}

void MemoryBarrier::land(int64_t landed) {
  bytes -= landed;
  complete();
}

void MemoryBarrier::complete() {
  if (pending == 0 && bytes == 0) {
    pending = arrivals;
    phase ^= 1;
  }
}

const Thread& current() {
  return machine->running->thread;
}
unsigned blocks_of_grid() {
  return machine->blocks;
}
int threads_of_block() {
  return machine->threads;
}

void wait_until(const char* what, const std::function<bool()>& ready) {
  Fiber& fiber = *machine->running;
  fiber.waits_for = what;
  while (!ready()) {
    swapcontext(&fiber.context, &machine->scheduler);
  }
  machine->has_moved = true;
}

void land_later(uint32_t target, std::function<void()> landing) {
  const Block& block = block_at(target);
  machine->landings.push_back([&block, landing = std::move(landing)] {
    expect_running(block);
    landing();
  });
}

void wait_for_previous() {
  wait_until("the kernel in front", [] { return machine->previous_has_ended; });
}

void wait_for(const CountedBarrier& barrier, int64_t generation, const char* what) {
  wait_until(what, [&] { return barrier.generation > generation; });
}

void arrive_at(CountedBarrier& barrier, int total, bool wait, const char* what) {
  const int64_t generation = barrier.generation;
  machine->has_moved = true;
  if (++barrier.arrived > total) {
    throw std::logic_error(std::string("more threads than it is for at ") + what);
  }
  if (barrier.arrived == total) {
    barrier.arrived = 0;
    ++barrier.generation;
  } else if (wait) {
    wait_for(barrier, generation, what);
  }
}

uint32_t address_of(const void* pointer) {
  const Block& block = *current().block;
  const auto offset = static_cast<const unsigned char*>(pointer) - block.memory;
  return uint32_t(block.rank) << rank_shift | uint32_t(offset);
}

unsigned char* pointer_to(uint32_t address) {
  const Block& block = block_at(address);
  const uint32_t offset = address & offset_mask;
  if (offset >= block.bytes) {
    throw std::out_of_range("an address beyond the block's shared memory");
  }
  return block.memory + offset;
}

MemoryBarrier& barrier_at(uint32_t address) {
  return block_at(address).barriers[address & offset_mask];
}

void run(const Launch& launch, const std::function<void()>& kernel, uint32_t seed) {
  machine = std::make_unique<Machine>();
  machine->kernel = &kernel;
  machine->blocks = unsigned(launch.clusters * launch.cluster_blocks);
  machine->threads = launch.threads;
  machine->random.seed(seed);
  for (int i = 0; i < launch.clusters; ++i) {
    machine->clusters.push_back(std::make_unique<Cluster>());
    machine->clusters.back()->blocks.resize(size_t(launch.cluster_blocks));
    for (int rank = 0; rank < launch.cluster_blocks; ++rank) {
      Block& block = machine->clusters.back()->blocks[size_t(rank)];
      prepare_block(block, unsigned(i * launch.cluster_blocks + rank), rank, launch.shared_bytes);
      add_block(*machine->clusters.back(), block);
    }
  }
  if (launch.previous) {
    machine->previous_has_ended = false;
    machine->landings.push_back([&launch] {
      launch.previous();
      machine->previous_has_ended = true;
    });
  }
  while (!machine->fibers.empty()) {
    machine->has_moved = false;
    run_round();
    const bool waits_for_copies = !machine->landings.empty();
    land_some();
    if (!machine->has_moved && !waits_for_copies) {
      throw std::runtime_error(hang());
    }
  }
  for (const std::function<void()>& landing : machine->landings) {
    landing();
  }
  expect_no_arrivals_left();
}

}  // namespace gsa::emulated
