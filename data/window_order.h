#pragma once

#include <cstdint>

namespace gsa::data {

/// A pseudo-random permutation of [0, size), computed number by number without a table: a Feistel
/// network over the smallest power of two that holds `size`, walked along its cycle until the
/// number lies below `size` (J. Black and P. Rogaway, "Ciphers with Arbitrary Finite Domains",
/// 2002). Fewer than two rounds through the network are needed on average.
class WindowOrder {
 public:
  /// The permutation for this epoch of this seed; each pair gives another one. `size` is at
  /// least 1.
  WindowOrder(int64_t size, uint64_t seed, int64_t epoch);

  /// What stands at `position`, in [0, size).
  [[nodiscard]] int64_t at(int64_t position) const;

 private:
  [[nodiscard]] uint64_t scramble(uint64_t value) const;

  uint64_t size_;
  uint64_t key_;
  int left_bits_ = 0;
  int right_bits_ = 0;
};

}  // namespace gsa::data
