// The choice of tokens from logits, a block a sequence: the same integers as on the CPU
// (kernels/sampling_math.h), so the same tokens. Weights of 32 bits lie in the workspace; the
// passes over them (one for each two bits of a threshold) come out of the caches: 32,000 tokens are
// 128 KB.
#include "kernels/sampling.h"

#include <climits>

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
  int32_t* history;  // [history_rows, B] or null
  int history_rows;
  uint32_t* weights;  // [B, columns]

  // A block's choice.
  __device__ void choose(int32_t position, int32_t token) const {
    tokens[blockIdx.x] = token;
    if (history != nullptr) {
      history[position % history_rows * int(gridDim.x) + int(blockIdx.x)] = token;
    }
  }
};

// A block's logits and weights.
struct Row {
  const float* logits;
  uint32_t* weights;
  int columns;
};

// The most probable token of those that a thread has looked at, in the order of tokens.
struct MostProbable {
  uint32_t order = 0;  // which NaN has too: it is never taken
  int token = INT_MAX;

  __device__ void look_at(float logit, int i) {
    const uint32_t other = sampling::order_of(logit);
    token = other > order ? i : token;
    order = max(order, other);
  }
  // As one number: the larger is the more probable, of equals the first.
  __device__ uint64_t rank() const { return uint64_t(order) << 32 | uint32_t(~token); }
  __device__ static int token_of(uint64_t rank) {
    return rank >> 32 == 0 ? 0 : int(~uint32_t(rank));
  }
};

struct Candidate {
  uint32_t order;
  uint32_t weight;
};
constexpr int max_candidates = 4096;

struct Larger {
  __device__ uint64_t operator()(uint64_t a, uint64_t b) const { return a > b ? a : b; }
};

// What a pass over the tokens of a bin of orders finds: of those that reach each of three bounds.
struct PassSums {
  uint64_t measures[digits];
  uint64_t counts[digits];
};

// What the block shares.
struct Shared {
  uint64_t sums[warps];
  PassSums passes[warps];
  Candidate candidates[max_candidates];
  int count;
};

// The rank of the most probable of this thread's tokens. All of a thread's loads of a round are
// under way before the first is looked at: 32,000 tokens are one round where four logits come in a
// piece.
template <int width>
__device__ uint64_t look_for_largest(const Row& row) {
  constexpr int pieces_at_once = 8;
  const int pieces = row.columns / width;
  MostProbable best;
  for (int first = int(threadIdx.x); first < pieces; first += pieces_at_once * threads) {
    float logits[pieces_at_once][width];
#pragma unroll
    for (int i = 0; i < pieces_at_once; ++i) {
      // Past the end the last piece once more, which changes nothing.
      load<width>(row.logits + int64_t(min(first + i * threads, pieces - 1)) * width, logits[i]);
    }
#pragma unroll
    for (int i = 0; i < pieces_at_once; ++i) {
#pragma unroll
      for (int k = 0; k < width; ++k) {
        best.look_at(logits[i][k], min(first + i * threads, pieces - 1) * width + k);
      }
    }
  }
  const int last = pieces * width + int(threadIdx.x);
  if (last < row.columns) {
    best.look_at(row.logits[last], last);
  }
  return best.rank();
}

// The sums over the block, in every thread: two rounds of sums over a warp.
__device__ PassSums add_passes(PassSums own, Shared& shared) {
  const int warp = int(threadIdx.x) / warp_size;
  const int lane = int(threadIdx.x) % warp_size;
  static_assert(warps == warp_size);
#pragma unroll
  for (int digit = 0; digit < digits; ++digit) {
    own.measures[digit] = warp_reduce(own.measures[digit], Add());
    own.counts[digit] = warp_reduce(own.counts[digit], Add());
  }
  __syncthreads();
  if (lane == 0) {
    shared.passes[warp] = own;
  }
  __syncthreads();
#pragma unroll
  for (int digit = 0; digit < digits; ++digit) {
    own.measures[digit] = warp_reduce(shared.passes[lane].measures[digit], Add());
    own.counts[digit] = warp_reduce(shared.passes[lane].counts[digit], Add());
  }
  return own;
}

// Copies the tokens of the bin [first, first + size) to shared memory, in any order.
__device__ void collect(const Row& row, uint32_t first, uint64_t size, Shared& shared) {
  __syncthreads();
  if (threadIdx.x == 0) {
    shared.count = 0;
  }
  __syncthreads();
  for (int i = int(threadIdx.x); i < row.columns; i += threads) {
    const uint32_t order = sampling::order_of(row.logits[i]);
    if (order - first < size) {
      shared.candidates[atomicAdd(&shared.count, 1)] = {order, row.weights[i]};
    }
  }
  __syncthreads();
}

// The largest threshold such that the sum of measure(weight) over the tokens whose order reaches
// it and `least` is at least `wanted`; not below `least`. Two bits a pass over the tokens of the
// bin that it must be in; once these are few they are kept in shared memory.
template <typename Measure>
__device__ uint32_t find_threshold(const Row& row, uint64_t wanted, uint32_t least, Shared& shared,
                                   Measure measure) {
  uint32_t threshold = 0;
  uint64_t beyond = 0;  // the sum above the bin
  uint64_t in_bin = uint64_t(row.columns);
  bool collected = false;
  for (int shift = order_bits - digit_bits; shift >= 0; shift -= digit_bits) {
    const uint64_t size = uint64_t{1} << (shift + digit_bits);
    if (!collected && in_bin <= max_candidates && in_bin * 2 < uint64_t(row.columns)) {
      collect(row, threshold, size, shared);
      collected = true;
    }
    PassSums own{};
    const auto look_at = [&](const Candidate& token) {
      const uint32_t within = token.order - threshold;
      const uint64_t value = token.order >= least ? measure(token.weight) : 0;
#pragma unroll
      for (int digit = 0; digit < digits; ++digit) {
        const bool reaches = within < size && within >= (uint32_t(digit + 1) << shift);
        own.measures[digit] += reaches ? value : 0;
        own.counts[digit] += reaches ? 1 : 0;
      }
    };
    if (collected) {
      for (int i = int(threadIdx.x); i < shared.count; i += threads) {
        look_at(shared.candidates[i]);
      }
    } else {
#pragma unroll 4
      for (int i = int(threadIdx.x); i < row.columns; i += threads) {
        look_at({sampling::order_of(row.logits[i]), row.weights[i]});
      }
    }
    const PassSums sums = add_passes(own, shared);
    int taken = 0;  // sums fall from bound to bound
#pragma unroll
    for (int digit = 0; digit < digits; ++digit) {
      taken += beyond + sums.measures[digit] >= wanted ? 1 : 0;
    }
    uint64_t measure_above = 0;
    uint64_t count_above = 0;
#pragma unroll
    for (int digit = 0; digit < digits; ++digit) {
      in_bin = digit + 1 == taken ? sums.counts[digit] : in_bin;
      measure_above = digit == taken ? sums.measures[digit] : measure_above;
      count_above = digit == taken ? sums.counts[digit] : count_above;
    }
    beyond += measure_above;
    in_bin -= count_above;
    threshold += uint32_t(taken) << shift;
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
template <typename Choose>
__device__ void find_token(const Row& row, uint32_t least, uint64_t point, uint64_t* shared,
                           const Choose& choose) {
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
        choose(first + __ffs(int(past)) - 1);
      }
      return;
    }
    passed += __shfl_sync(full_warp, sum, warp_size - 1);
  }
}

// `width`: logits that lie side by side and come in one piece.
template <int width>
__global__ void __launch_bounds__(threads) sample_kernel(const SamplingArgs args) {
  __shared__ Shared shared;
  let_next_start();
  wait_for_previous();
  const int sequence = int(blockIdx.x);
  const Row row{args.logits.at(sequence, 0), args.weights + int64_t(sequence) * args.columns,
                args.columns};
  const uint64_t best = block_reduce(look_for_largest<width>(row), shared.sums, Larger());
  const int most_probable = MostProbable::token_of(best);
  const int position = args.positions[sequence];
  __syncthreads();
  if (threadIdx.x == 0) {
    args.choose(position, most_probable);
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
  uint64_t total = kept_weight(row, least, shared.sums);
  if (args.top_p < 1) {
    least = find_threshold(row, sampling::share_of(total, args.top_p), least, shared,
                           [](uint32_t weight) { return uint64_t{weight}; });
    total = kept_weight(row, least, shared.sums);
  }
  const uint64_t random = sampling::random_bits(args.seed, uint64_t(args.first_sequence + sequence),
                                                uint64_t(position));
  find_token(row, least, sampling::scaled(random, total), shared.sums,
             [&](int token) { args.choose(position, token); });
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
  sampling.history = elements_of<int32_t>(args.history);
  sampling.history_rows = args.history ? int(args.history.dim(0)) : 1;
  sampling.weights = reinterpret_cast<uint32_t*>(workspace);
  with_width<float_vector_width>(is_aligned(args.logits), [&](auto width) {
    launch_dependent(sample_kernel<width()>,
                     {.blocks = unsigned(args.logits.dim(0)), .threads = threads, .cached = true},
                     sampling, stream, "sample_tokens");
  });
}

}  // namespace gsa::kernels::cuda
