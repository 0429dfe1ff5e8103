// What the next kernel of a chain of decode operations reads first: while a kernel's last bytes are
// summed up, the next one starts and its input comes, memory would have nothing to do.
#pragma once

#include "kernels/cuda/async_copy.h"

namespace gsa::kernels::cuda {

struct NextRead {
  const unsigned char* stretches[2];  // of memory, at a multiple of 16 bytes; or absent
  int bytes;                          // of each
};

// Asks a block's share of it into the L2 cache, by one thread.
__device__ inline void read_ahead(const NextRead& next) {
  constexpr unsigned together = 128;
  const unsigned lines = unsigned(next.bytes) / together;
  const unsigned begin = lines * blockIdx.x / gridDim.x;
  const unsigned end = lines * (blockIdx.x + 1) / gridDim.x;
  for (const unsigned char* stretch : next.stretches) {
    if (stretch != nullptr && end > begin) {
      prefetch_bytes(stretch + size_t{begin} * together, int((end - begin) * together));
    }
  }
}

}  // namespace gsa::kernels::cuda
