// The choice of tokens on the CPU. What top-k and top-p keep are the tokens whose order is at least
// a threshold, found bit by bit from the highest: the largest number that enough tokens (or enough
// weight) reach.
#include "kernels/sampling.h"

#include <algorithm>

#include "kernels/backends.h"
#include "kernels/cpu/parallel.h"
#include "kernels/sampling_math.h"

namespace gsa::kernels::cpu {
namespace {

constexpr int order_bits = 32;

// A token's place among the others, and its weight.
struct Candidate {
  uint32_t order;
  uint32_t weight;
};

// The largest threshold such that the sum of measure(candidate) over the candidates that reach it
// is at least `wanted`, not below `least`.
template <typename Measure>
uint32_t threshold_of(std::span<const Candidate> candidates, uint64_t wanted, uint32_t least,
                      const Measure& measure) {
  uint32_t threshold = 0;
  for (int bit = order_bits - 1; bit >= 0; --bit) {
    const uint32_t higher = threshold | uint32_t{1} << bit;
    uint64_t sum = 0;
    for (const Candidate& candidate : candidates) {
      sum += candidate.order >= higher && candidate.order >= least ? measure(candidate) : 0;
    }
    threshold = sum >= wanted ? higher : threshold;
  }
  return std::max(threshold, least);
}

int32_t most_probable(std::span<const float> logits) {
  size_t best = 0;
  for (size_t i = 1; i < logits.size(); ++i) {
    best = sampling::order_of(logits[i]) > sampling::order_of(logits[best]) ? i : best;
  }
  return static_cast<int32_t>(best);
}

int32_t draw(std::span<const float> logits, const SamplingOptions& options, uint64_t random,
             std::span<Candidate> candidates) {
  const float largest = logits[static_cast<size_t>(most_probable(logits))];
  const auto scale = sampling::exponent_scale(options.temperature);
  for (size_t i = 0; i < logits.size(); ++i) {
    candidates[i] = {sampling::order_of(logits[i]),
                     uint32_t(sampling::weight_of(logits[i], largest, scale))};
  }
  uint32_t least = 0;
  if (options.top_k > 0 && options.top_k < int64_t(logits.size())) {
    least = threshold_of(candidates, uint64_t(options.top_k), 0,
                         [](const Candidate&) { return uint64_t{1}; });
  }
  const auto kept_weight = [&] {
    uint64_t total = 0;
    for (const Candidate& candidate : candidates) {
      total += candidate.order >= least ? candidate.weight : 0;
    }
    return total;
  };
  uint64_t total = kept_weight();
  if (options.top_p < 1) {
    least = threshold_of(candidates, sampling::share_of(total, options.top_p), least,
                         [](const Candidate& candidate) { return uint64_t{candidate.weight}; });
    total = kept_weight();
  }
  const uint64_t point = sampling::scaled(random, total);
  uint64_t passed = 0;
  for (size_t i = 0; i < candidates.size(); ++i) {
    passed += candidates[i].order >= least ? candidates[i].weight : 0;
    if (passed > point) {
      return static_cast<int32_t>(i);
    }
  }
  return most_probable(logits);
}

}  // namespace

size_t sample_tokens_workspace(const SampleTokens& args) {
  return args.options.temperature == 0 ? 0 : size_t(args.logits.count()) * sizeof(Candidate);
}

void sample_tokens(Stream& /*stream*/, const SampleTokens& args, std::byte* workspace) {
  const int64_t sequences = args.logits.dim(0);
  const int64_t columns = args.logits.dim(1);
  const auto* logits = args.logits.as<float>();
  auto* positions = args.positions.as<int32_t>();
  auto* tokens = args.tokens.as<int32_t>();
  parallel_for(sequences, columns * order_bits, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const std::span row(logits + n * args.logits.row_stride(), size_t(columns));
      const uint64_t random = sampling::random_bits(
          args.options.seed, uint64_t(args.first_sequence + n), uint64_t(positions[n]));
      const std::span candidates(reinterpret_cast<Candidate*>(workspace) + n * columns,
                                 size_t(columns));
      tokens[n] = args.options.temperature == 0 ? most_probable(row)
                                                : draw(row, args.options, random, candidates);
      if (args.history) {
        const int64_t draw_row = positions[n] % args.history.dim(0);
        args.history.as<int32_t>()[draw_row * sequences + n] = tokens[n];
      }
      ++positions[n];
    }
  });
}

}  // namespace gsa::kernels::cpu
