// The choice of tokens from logits, a block a sequence: the same integers as on the CPU
// (kernels/sampling_math.h), so the same tokens. Weights of 32 bits lie in the workspace; the
// passes over them (one for each two bits of a threshold) come out of the caches: 32,000 tokens are
// 128 KB.
#include "kernels/sampling.h"

#include "kernels/backends.h"
#include "kernels/cuda/dependent_launch.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/reduce.h"
#include "kernels/sampling_math.h"

namespace gsa::kernels::cuda {
namespace {

constexpr int threads = 1024;
constexpr int warps = threads / warp_size;
constexpr int digit_bits = 2;
constexpr int digits = (1 << digit_bits) - 1;  // but zero
constexpr int order_bits = 32;

struct SamplingArgs {
  Rows<const float> logits;
  int columns;
  bool greedy;
  float exponent_scale;
  uint32_t top_k;  // 0: all
  double top_p;
  uint64_t seed;
  int64_t first_sequence;
  int32_t* positions;
  int32_t* tokens;
  uint32_t* weights;  // [B, columns]
};

// A block's logits and weights.
struct Row {
  const float* logits;
  uint32_t* weights;
  int columns;
};

// A token and its order as one number: the larger is the more probable, of equals the first.
__device__ inline uint64_t rank_of(float logit, int token) {
  return uint64_t(sampling::order_of(logit)) << 32 | uint32_t(~token);
}

struct Larger {
  __device__ uint64_t operator()(uint64_t a, uint64_t b) const { return a > b ? a : b; }
};

// The largest threshold such that the sum of measure(order, weight) over the tokens that reach it
// and `least` is at least `wanted`; not below `least`. Two bits a pass.
template <typename Measure>
__device__ uint32_t find_threshold(const Row& row, uint64_t wanted, uint32_t least,
                                   uint64_t* shared, Measure measure) {
  uint32_t threshold = 0;
  for (int shift = order_bits - digit_bits; shift >= 0; shift -= digit_bits) {
    uint64_t sums[digits] = {};
#pragma unroll 4
    for (int i = int(threadIdx.x); i < row.columns; i += threads) {
      const uint32_t order = sampling::order_of(row.logits[i]);
      const uint64_t value = order >= least ? measure(row.weights[i]) : 0;
#pragma unroll
      for (int digit = 0; digit < digits; ++digit) {
        const uint32_t higher = threshold + (uint32_t(digit + 1) << shift);
        sums[digit] += order >= higher ? value : 0;
      }
    }
    uint32_t taken = 0;
#pragma unroll
    for (int digit = 0; digit < digits; ++digit) {
      __syncthreads();
      const uint64_t sum = block_reduce(sums[digit], shared, Add());
      taken += sum >= wanted ? 1 : 0;  // sums fall from digit to digit
    }
    threshold += taken << shift;
  }
  __syncthreads();
  return max(threshold, least);
}

__device__ uint64_t kept_weight(const Row& row, uint32_t least, uint64_t* shared) {
  uint64_t sum = 0;
  for (int i = int(threadIdx.x); i < row.columns; i += threads) {
    sum += sampling::order_of(row.logits[i]) >= least ? row.weights[i] : 0;
  }
  __syncthreads();
  return block_reduce(sum, shared, Add());
}

// The first token at which the kept weights, added up in the order of tokens, pass `point`. Each
// warp adds up a stretch of tokens; the warp in whose stretch it happens looks for the place.
__device__ void find_token(const Row& row, uint32_t least, uint64_t point, uint64_t* shared,
                           int32_t* token) {
  const int warp = int(threadIdx.x) / warp_size;
  const int lane = int(threadIdx.x) % warp_size;
  const int stretch = (row.columns + warps - 1) / warps;
  const int begin = min(warp * stretch, row.columns);
  const int end = min(begin + stretch, row.columns);
  const auto kept = [&](int i) -> uint64_t {
    return i < end && sampling::order_of(row.logits[i]) >= least ? row.weights[i] : 0;
  };
  uint64_t own = 0;
  for (int i = begin + lane; i < end; i += warp_size) {
    own += kept(i);
  }
  own = warp_reduce(own, Add());
  __syncthreads();
  if (lane == 0) {
    shared[warp] = own;
  }
  __syncthreads();
  uint64_t passed = 0;
  for (int before = 0; before < warp; ++before) {
    passed += shared[before];
  }
  if (passed > point || passed + own <= point) {
    return;
  }
  for (int first = begin; first < end; first += warp_size) {
    uint64_t sum = kept(first + lane);  // becomes the sum up to this lane
#pragma unroll
    for (int step = 1; step < warp_size; step *= 2) {
      const uint64_t other = __shfl_up_sync(full_warp, sum, unsigned(step));
      sum += lane >= step ? other : 0;
    }
    const unsigned past = __ballot_sync(full_warp, passed + sum > point);
    if (past != 0) {
      if (lane == 0) {
        *token = first + __ffs(int(past)) - 1;
      }
      return;
    }
    passed += __shfl_sync(full_warp, sum, warp_size - 1);
  }
}

__global__ void __launch_bounds__(threads) sample_kernel(const SamplingArgs args) {
  __shared__ uint64_t shared[warps];
  let_next_start();
  wait_for_previous();
  const int sequence = int(blockIdx.x);
  const Row row{args.logits.at(sequence, 0), args.weights + int64_t(sequence) * args.columns,
                args.columns};
  uint64_t best = 0;
#pragma unroll 8
  for (int i = int(threadIdx.x); i < row.columns; i += threads) {
    best = Larger()(best, rank_of(row.logits[i], i));
  }
  best = block_reduce(best, shared, Larger());
  const int most_probable = int(~uint32_t(best));
  const int position = args.positions[sequence];
  __syncthreads();
  if (threadIdx.x == 0) {
    args.tokens[sequence] = most_probable;
    args.positions[sequence] = position + 1;
  }
  if (args.greedy) {
    return;
  }
  const float largest = row.logits[most_probable];
  for (int i = int(threadIdx.x); i < row.columns; i += threads) {
    row.weights[i] = uint32_t(sampling::weight_of(row.logits[i], largest, args.exponent_scale));
  }
  __syncthreads();
  uint32_t least = 0;
  if (args.top_k > 0) {
    least = find_threshold(row, args.top_k, 0, shared, [](uint32_t) { return uint64_t{1}; });
  }
  uint64_t total = kept_weight(row, least, shared);
  if (args.top_p < 1) {
    least = find_threshold(row, sampling::share_of(total, args.top_p), least, shared,
                           [](uint32_t weight) { return uint64_t{weight}; });
    total = kept_weight(row, least, shared);
  }
  const uint64_t random = sampling::random_bits(args.seed, uint64_t(args.first_sequence + sequence),
                                                uint64_t(position));
  find_token(row, least, sampling::scaled(random, total), shared, args.tokens + sequence);
}

}  // namespace

void sample_tokens(Stream& stream, const SampleTokens& args, std::byte* workspace) {
  if (args.logits.dim(0) == 0) {
    return;
  }
  const SamplingOptions& options = args.options;
  SamplingArgs sampling{};
  sampling.logits = rows_of<float>(args.logits);
  sampling.columns = int(args.logits.dim(1));
  sampling.greedy = options.temperature == 0;
  sampling.exponent_scale = sampling.greedy ? 0 : sampling::exponent_scale(options.temperature);
  sampling.top_k = options.top_k < args.logits.dim(1) ? uint32_t(options.top_k) : 0;
  sampling.top_p = options.top_p;
  sampling.seed = options.seed;
  sampling.first_sequence = args.first_sequence;
  sampling.positions = elements_of<int32_t>(args.positions);
  sampling.tokens = elements_of<int32_t>(args.tokens);
  sampling.weights = reinterpret_cast<uint32_t*>(workspace);
  launch_dependent(sample_kernel, {.blocks = unsigned(args.logits.dim(0)), .threads = threads},
                   sampling, stream, "sample_tokens");
}

}  // namespace gsa::kernels::cuda
