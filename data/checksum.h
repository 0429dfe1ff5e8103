#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace gsa::data {

/// Running XXH3 checksum, 64 bits (https://xxhash.com), of bytes given piece by piece.
class Checksum {
 public:
  Checksum();
  ~Checksum();
  Checksum(Checksum&&) noexcept;
  Checksum& operator=(Checksum&&) noexcept;

  void update(std::span<const std::byte> bytes);
  /// The checksum of everything given so far; more may follow.
  [[nodiscard]] uint64_t value() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// XXH3 checksum, 64 bits, of one run of bytes.
uint64_t checksum_of(std::span<const std::byte> bytes);

}  // namespace gsa::data
