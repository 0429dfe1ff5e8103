#include <atomic>
#include <cstring>

#include "kernels/backends.h"
#include "kernels/checksum_mix.h"
#include "kernels/cpu/parallel.h"

namespace gsa::kernels::cpu {
namespace {

template <typename Bits>
uint64_t sum_terms(const void* data, int64_t count, int64_t position) {
  const auto* bytes = static_cast<const std::byte*>(data);
  std::atomic<uint64_t> total = 0;
  parallel_for(count, 1, [&](int64_t begin, int64_t end) {
    uint64_t sum = 0;
    for (int64_t i = begin; i < end; ++i) {
      Bits bits = 0;
      std::memcpy(&bits, bytes + i * int64_t{sizeof(Bits)}, sizeof(Bits));
      sum += checksum_term(static_cast<uint64_t>(position + i), bits);
    }
    total += sum;
  });
  return total;
}

uint64_t sum_of(const ConstTensor& input, int64_t position) {
  switch (size_of(input.dtype())) {
    case 1:
      return sum_terms<uint8_t>(input.data(), input.count(), position);
    case 2:
      return sum_terms<uint16_t>(input.data(), input.count(), position);
    case 4:
      return sum_terms<uint32_t>(input.data(), input.count(), position);
    default:
      return sum_terms<uint64_t>(input.data(), input.count(), position);
  }
}

}  // namespace

void checksum(Stream& /*stream*/, const Checksum& args) {
  uint64_t total = 0;
  std::memcpy(&total, args.sum.data(), sizeof(total));
  total += sum_of(args.input, args.position);
  std::memcpy(args.sum.data(), &total, sizeof(total));
}

}  // namespace gsa::kernels::cpu
