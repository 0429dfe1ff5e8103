#include "kernels/normal.h"

#include <cmath>
#include <numbers>

#include "kernels/backends.h"
#include "kernels/cpu/parallel.h"

namespace gsa::kernels {
namespace {

// In (0, 1], with 32 bits.
double uniform(uint64_t bits) {
  return (double(bits & 0xFFFFFFFFULL) + 1.0) * 0x1.0p-32;
}

}  // namespace

float normal_value(uint64_t key, int64_t index, double std) {
  const uint64_t bits = mix_bits(key + static_cast<uint64_t>(index) * 0x9E3779B97F4A7C15ULL);
  const double radius = std::sqrt(-2.0 * std::log(uniform(bits)));
  return static_cast<float>(std *
                            (radius * std::cos(2.0 * std::numbers::pi * uniform(bits >> 32))));
}

namespace cpu {

void normal_fill(Stream& /*stream*/, const NormalFill& args) {
  constexpr int64_t work = 16;  // element operations of one number, roughly
  auto* output = args.output.as<float>();
  parallel_for(args.output.count(), work, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      output[i] = normal_value(args.key, args.begin + i, args.std);
    }
  });
  args.doubtful.as<int32_t>()[0] = 0;
}

}  // namespace cpu
}  // namespace gsa::kernels
