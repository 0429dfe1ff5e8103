// The emulator itself: hand-overs work in any order, and what goes wrong is told.
#include <gtest/gtest.h>

#include "kernels/cuda/async_copy.h"

namespace gsa::kernels::cuda {
namespace {

constexpr int threads = 2 * warp_size;
constexpr size_t shared_bytes = 4096;
constexpr uint32_t seeds = 20;

// The first warp's thread 0 has a matrix copied, the second warp reads it.
struct HandOver {
  CUtensorMap map;
  bool waits;
  int* wrong;

  void operator()() const {
    const uint32_t panel = shared_address(block_memory());
    const uint32_t barrier = panel + 2048;
    if (threadIdx.x == 0) {
      init_barrier(barrier, 1);
    }
    sync_threads(0, threads);
    if (threadIdx.x == 0) {
      arrive_expecting(barrier, 8 * panel_row_bytes);
      copy_panels(panel, map, 0, 0, barrier);
      wait_barrier(barrier, 0);
    }
    if (threadIdx.x >= warp_size) {
      if (waits) {
        wait_barrier(barrier, 0);
      }
      const int row = int(threadIdx.x) % 8;
      bfloat16 x;
      std::memcpy(&x, block_memory() + panel_offset(row, 3), sizeof(x));
      *wrong += to_float(x) != float(row * panel_columns + 3 * piece_columns) ? 1 : 0;
    }
    sync_cluster();
  }
};

int run_hand_over(bool waits) {
  std::vector<bfloat16> matrix(8 * panel_columns);
  for (size_t i = 0; i < matrix.size(); ++i) {
    matrix[i] = to_bfloat16(float(i / 8 * 8));  // numbers that eight bits hold
  }
  int wrong = 0;
  const HandOver kernel{{matrix.data(), 8, panel_columns, panel_columns, 8}, waits, &wrong};
  for (uint32_t seed = 0; seed < seeds; ++seed) {
    emulated::run({.clusters = 2, .threads = threads, .shared_bytes = shared_bytes}, kernel, seed);
  }
  return wrong;
}

TEST(Emulator, HandsOverWhatTheCopyEngineBrought) {
  EXPECT_EQ(run_hand_over(true), 0);
}

TEST(Emulator, AMissingWaitShowsInWhatIsRead) {
  EXPECT_GT(run_hand_over(false), 0);
}

TEST(Emulator, AWaitThatNeverEndsIsTold) {
  const auto kernel = [] {
    const uint32_t barrier = shared_address(block_memory());
    if (threadIdx.x == 0) {
      init_barrier(barrier, 2);
      arrive(barrier);
    }
    sync_threads(0, threads);
    wait_barrier(barrier, 0);
  };
  try {
    emulated::run({.threads = threads, .shared_bytes = shared_bytes}, kernel, 0);
    FAIL() << "it ended";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("128 threads wait for a barrier in memory"),
              std::string::npos)
        << error.what();
  }
}

// The first block sends the second one a word, which waits for it or not.
void run_sending(bool waits, uint32_t seed) {
  const auto kernel = [waits] {
    const uint32_t place = shared_address(block_memory());
    const uint32_t barrier = place + 2048;
    if (threadIdx.x == 0) {
      init_barrier(barrier, 1);
    }
    sync_cluster();
    if (threadIdx.x == 0 && cluster_rank() == 0) {
      hand_over_word(address_in_block(place, 1), 1, address_in_block(barrier, 1));
    }
    if (threadIdx.x == 0 && cluster_rank() == 1 && waits) {
      arrive_expecting(barrier, sizeof(int));
      wait_barrier(barrier, 0);
    }
  };
  emulated::run({.threads = threads, .shared_bytes = shared_bytes}, kernel, seed);
}

TEST(Emulator, ABlockThatEndsBeforeWhatIsSentToItIsTold) {
  for (uint32_t seed = 0; seed < seeds; ++seed) {
    EXPECT_NO_THROW(run_sending(true, seed));
    EXPECT_THROW(run_sending(false, seed), std::logic_error);
  }
}

// The first warp arrives, the second one waits, or does not.
TEST(Emulator, ABarrierThatIsLeftHalfFullIsTold) {
  for (const bool waits : {true, false}) {
    const auto kernel = [waits] {
      if (threadIdx.x < warp_size) {
        arrive_threads(1, threads);
      } else if (waits) {
        sync_threads<1>(threads);
      }
    };
    const auto run = [&] {
      emulated::run({.threads = threads, .shared_bytes = shared_bytes}, kernel, 0);
    };
    if (waits) {
      EXPECT_NO_THROW(run());
    } else {
      EXPECT_THROW(run(), std::runtime_error);
    }
  }
}

TEST(Emulator, OneArrivalTooManyIsTold) {
  const auto kernel = [] {
    const uint32_t barrier = shared_address(block_memory());
    if (threadIdx.x == 0) {
      init_barrier(barrier, 2);
      arrive_expecting(barrier, 16);  // which never land
      arrive(barrier);
      arrive(barrier);
    }
  };
  EXPECT_THROW(emulated::run({.threads = threads, .shared_bytes = shared_bytes}, kernel, 0),
               std::logic_error);
}

}  // namespace
}  // namespace gsa::kernels::cuda
