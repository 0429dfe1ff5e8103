// The checksum on CUDA: to the bit that of the CPU.
#include <gtest/gtest.h>

#include "tests/kernels/cuda/both_devices.h"

namespace gsa::kernels {
namespace {

using test::Bench;

TEST(CudaChecksum, IsThatOfTheCpu) {
  GSA_SKIP_WITHOUT_CUDA()
  for (const DType dtype : {DType::float32, DType::bfloat16}) {
    for (const int64_t count : {1, 31, 4097, 3'000'003}) {
      std::vector<std::vector<std::byte>> sums;
      for (const Device device : {Device::cpu, Device::cuda, Device::cuda}) {
        Bench bench(device, DType::float32, true);
        const std::vector<double> numbers = test::Random(7).uniform_values(count, -100, 100);
        const Tensor values = bench.values(DType::float32, {count}, numbers);
        const Tensor stored = bench.output(dtype, {count});
        convert(bench.stream(), {.input = values, .output = stored});
        const Tensor sum = bench.integers({5, -6});
        checksum(bench.stream(), {.input = stored, .position = 11, .sum = sum});
        if (count > 2) {  // from an odd element on
          checksum(bench.stream(), {.input = stored.rows(1, count), .position = 1, .sum = sum});
        }
        bench.keep("sum", sum);
        sums.push_back(bench.results()[0].bits);
      }
      EXPECT_EQ(sums[1], sums[0]) << name_of(dtype) << " " << count;
      EXPECT_EQ(sums[2], sums[1]) << name_of(dtype) << " " << count << ": again";
    }
  }
}

}  // namespace
}  // namespace gsa::kernels
