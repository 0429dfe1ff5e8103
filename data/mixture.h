#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace gsa::data {

/// Deals the global sample numbers 0, 1, 2, ... out to several sources by weight, without state:
/// what sample n is depends on n and the weights alone. The weights are rounded to multiples of
/// 2^-20, and after any number of samples no source is further from its share than the number of
/// sources. Repeats after 2^20 samples; holds 5 MB, or nothing for a single source.
class Mixture {
 public:
  /// Where a sample comes from: the source, and how many of its samples came before.
  struct Choice {
    int32_t source = 0;
    int64_t position = 0;
  };

  /// `weights`, one a source, are positive and need not add up to 1. Throws DataError for no
  /// weight, for one that is not positive, and for more than 255.
  explicit Mixture(std::span<const double> weights);

  [[nodiscard]] Choice at(int64_t sample) const;

 private:
  std::vector<int64_t> quota_;   // of each source, samples a cycle
  std::vector<uint8_t> source_;  // of each slot of the cycle
  std::vector<uint32_t> rank_;   // of each slot among those of its source
};

}  // namespace gsa::data
