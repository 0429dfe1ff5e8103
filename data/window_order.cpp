#include "data/window_order.h"

#include <algorithm>
#include <bit>

namespace gsa::data {
namespace {

constexpr uint64_t kRounds = 8;
constexpr int kMinBits = 2;  // one for each half

/// The finalizer of SplitMix64 (G. Steele, D. Lea, C. Flood, 2014).
uint64_t mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

uint64_t low_bits(uint64_t value, int bits) {
  return value & ((uint64_t{1} << bits) - 1);
}

}  // namespace

WindowOrder::WindowOrder(int64_t size, uint64_t seed, int64_t epoch)
    : size_(static_cast<uint64_t>(size)), key_(mix(mix(seed) ^ static_cast<uint64_t>(epoch))) {
  const int bits = std::max(kMinBits, static_cast<int>(std::bit_width(size_ - 1)));
  left_bits_ = bits / 2;
  right_bits_ = bits - left_bits_;
}

int64_t WindowOrder::at(int64_t position) const {
  auto value = static_cast<uint64_t>(position);
  do {
    value = scramble(value);
  } while (value >= size_);
  return static_cast<int64_t>(value);
}

uint64_t WindowOrder::scramble(uint64_t value) const {
  uint64_t left = value >> right_bits_;
  uint64_t right = low_bits(value, right_bits_);
  // Each half is changed by the other in turn, which can be undone whatever mix() does.
  for (uint64_t round = 0; round < kRounds; round += 2) {
    left ^= low_bits(mix(key_ + round * size_ + right), left_bits_);
    right ^= low_bits(mix(~key_ + round * size_ + left), right_bits_);
  }
  return left << right_bits_ | right;
}

}  // namespace gsa::data
