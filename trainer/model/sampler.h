// The choice of the next token from logits.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <vector>

namespace gsa {

struct SamplingOptions {
  double temperature = 1.0;  // 0: always the most probable token
  int64_t top_k = 0;         // only the k most probable tokens; 0: all
  double top_p = 1.0;        // only the fewest tokens that have this probability together
  uint64_t seed = 0;
};

class Sampler {
 public:
  // Throws std::invalid_argument for options out of range.
  explicit Sampler(const SamplingOptions& options);

  // A token drawn from softmax(logits / temperature), cut to top_k and top_p. The same seed and
  // logits give the same tokens on every machine.
  int32_t sample(std::span<const float> logits);

 private:
  SamplingOptions options_;
  std::mt19937_64 random_;
  std::vector<int32_t> order_;
  std::vector<double> probabilities_;
};

}  // namespace gsa
