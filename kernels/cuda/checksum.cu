// The checksum of a tensor's bits.
//
// A block of 256 threads sums its share in registers, over the block, and adds one 64-bit integer
// to the result atomically: integers, so that the order does not matter. About 25 integer
// operations an element; 1.4 billion bf16 weights are 2.8 GB, read once.
#include <algorithm>

#include "kernels/backends.h"
#include "kernels/checksum_mix.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/reduce.h"

namespace gsa::kernels::cuda {
namespace {

constexpr int checksum_threads = 256;
constexpr int checksum_warps = checksum_threads / warp_size;
constexpr int64_t elements_a_thread = 16;
constexpr unsigned most_blocks = 132 * 8;  // enough to fill the largest GPU; any number will do

using Sum = unsigned long long;  // atomicAdd's name for 64 bits

template <typename Bits>
__global__ void __launch_bounds__(checksum_threads)
    checksum_kernel(const Bits* input, int64_t count, int64_t position, Sum* total) {
  __shared__ Sum sums[checksum_warps];
  const int64_t stride = int64_t{gridDim.x} * checksum_threads;
  Sum sum = 0;
#pragma unroll 4
  for (int64_t i = int64_t{blockIdx.x} * checksum_threads + threadIdx.x; i < count; i += stride) {
    sum += checksum_term(uint64_t(position + i), input[i]);
  }
  sum = block_reduce(sum, sums, Add{});
  if (threadIdx.x == 0) {
    atomicAdd(total, sum);
  }
}

template <typename Bits>
void launch(Stream& stream, const Checksum& args) {
  const int64_t count = args.input.count();
  const unsigned blocks =
      std::min(most_blocks, blocks_of(count, checksum_threads * elements_a_thread));
  checksum_kernel<<<blocks, checksum_threads, 0, native(stream)>>>(
      static_cast<const Bits*>(args.input.data()), count, args.position,
      static_cast<Sum*>(args.sum.data()));
  check_launch("checksum");
}

}  // namespace

void checksum(Stream& stream, const Checksum& args) {
  if (args.input.count() == 0) {
    return;
  }
  switch (size_of(args.input.dtype())) {
    case 1:
      return launch<uint8_t>(stream, args);
    case 2:
      return launch<uint16_t>(stream, args);
    case 4:
      return launch<uint32_t>(stream, args);
    default:
      return launch<uint64_t>(stream, args);
  }
}

}  // namespace gsa::kernels::cuda
