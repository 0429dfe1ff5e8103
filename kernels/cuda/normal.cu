// Normally distributed numbers (kernels/normal.h). A thread a number, some hundred operations in
// float64: the 1.4e9 weights of the 1.3B model take a few hundredths of a second.
#include <numbers>

#include "kernels/backends.h"
#include "kernels/cuda/launch.h"

namespace gsa::kernels::cuda {
namespace {

constexpr int normal_threads = 256;

// The logarithm here is within 1 unit in the last place of the true one and the cosine within 2,
// those of the host within 1: together under 1.5e-15 of the number, and this is five times as much.
constexpr double doubt = 8e-15;

// mix_bits of kernels/normal.h.
__device__ uint64_t mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

__device__ double uniform(uint64_t bits) {
  return (double(bits & 0xFFFFFFFFULL) + 1.0) * 0x1.0p-32;
}

struct NormalArguments {
  uint64_t key;
  int64_t begin;
  double std;
  float* output;
  int64_t count;
  int32_t* doubtful;
  int64_t most;
};

__global__ void __launch_bounds__(normal_threads) normal_kernel(const NormalArguments args) {
  const int64_t i = int64_t{blockIdx.x} * normal_threads + threadIdx.x;
  if (i >= args.count) {
    return;
  }
  const uint64_t bits = mix(args.key + uint64_t(args.begin + i) * 0x9E3779B97F4A7C15ULL);
  const double radius = sqrt(-2.0 * log(uniform(bits)));
  const double value = args.std * (radius * cos(2.0 * std::numbers::pi * uniform(bits >> 32)));
  args.output[i] = float(value);
  if (float(value * (1.0 - doubt)) != float(value * (1.0 + doubt))) {
    const int at = atomicAdd(args.doubtful, 1);  // a count: the order of the list does not matter
    if (at < args.most) {
      args.doubtful[1 + at] = int32_t(i);
    }
  }
}

}  // namespace

void normal_fill(Stream& stream, const NormalFill& args) {
  if (args.output.count() == 0) {
    return;
  }
  check(cudaMemsetAsync(args.doubtful.data(), 0, sizeof(int32_t), native(stream)), "normal_fill");
  const NormalArguments kernel{args.key,
                               args.begin,
                               args.std,
                               elements_of<float>(args.output),
                               args.output.count(),
                               args.doubtful.as<int32_t>(),
                               args.doubtful.count() - 1};
  normal_kernel<<<blocks_of(kernel.count, normal_threads), normal_threads, 0, native(stream)>>>(
      kernel);
  check_launch("normal_fill");
}

}  // namespace gsa::kernels::cuda
