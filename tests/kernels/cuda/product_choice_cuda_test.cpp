// The choice of algorithms for products, and numbers that the device makes and the host settles.
#include "kernels/product_choice.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

#include "tests/kernels/cuda/both_devices.h"

namespace gsa::kernels {
namespace {

using test::Bench;
using test::expect_as_on_cpu;

class CudaProductChoice : public testing::Test {
 protected:
  void SetUp() override { GSA_SKIP_WITHOUT_CUDA(); }
};

Matmul product(Bench& bench) {
  return {.a = bench.random({384, 512}),
          .b = bench.random({256, 512}),
          .transpose_b = Transpose::yes,
          .c = bench.output({384, 256})};
}

TEST_F(CudaProductChoice, EveryChoiceIsAsOnTheCpu) {
  // Measured once a dtype: beside other work a second measurement may choose another one, with
  // other bits.
  std::map<DType, std::string> algorithms;
  expect_as_on_cpu("measured matmul", [&](Bench& bench) {
    const Matmul args = product(bench);
    if (bench.device() == Device::cuda) {
      std::string& algorithm = algorithms[bench.dtype()];
      if (algorithm.empty()) {
        const ProductMeasurement measurement = measure_product(bench.stream(), args);
        EXPECT_GT(measurement.milliseconds, 0);
        algorithm = measurement.algorithm;
      }
      EXPECT_TRUE(choose_product(bench.stream(), args, algorithm));
    }
    matmul(bench.stream(), args);
    bench.keep("product", args.c);
  });
}

TEST_F(CudaProductChoice, TheFirstProposalIsWhatIsTakenWithoutAChoice) {
  Bench bench(Device::cuda, DType::bfloat16, true);
  const Matmul args = product(bench);
  const auto bits = [&] {
    matmul(bench.stream(), args);
    std::vector<uint16_t> values(static_cast<size_t>(args.c.count()));
    copy(bench.stream(), args.c,
         {values.data(), args.c.dtype(), Device::cpu, {args.c.dim(0), args.c.dim(1)}});
    bench.stream().synchronize();
    return values;
  };
  const std::vector<uint16_t> unchosen = bits();
  EXPECT_TRUE(choose_product(bench.stream(), args, first_proposal(bench.stream(), args)));
  EXPECT_EQ(bits(), unchosen);
}

TEST_F(CudaProductChoice, NonsenseIsNotTaken) {
  Bench bench(Device::cuda, DType::bfloat16, true);
  const Matmul args = product(bench);
  const std::string some = measure_product(bench.stream(), args).algorithm;
  for (const std::string& text : {std::string(), std::string("nonsense"), some.substr(1),
                                  "x" + some.substr(1), std::string(some.size(), 'f')}) {
    EXPECT_FALSE(choose_product(bench.stream(), args, text)) << text;
  }
  matmul(bench.stream(), args);  // as before
}

TEST_F(CudaProductChoice, NumbersOfTheDeviceAreThoseOfTheHostButForTheDoubtful) {
  constexpr int64_t count = 1 << 22;
  constexpr int64_t most = 255;
  constexpr uint64_t key = 42;
  constexpr double deviation = 0.02;
  Stream stream(Device::cuda);
  const Buffer numbers(Device::cuda, count * sizeof(float));
  const Buffer list(Device::cuda, (1 + most) * sizeof(int32_t));
  const Tensor output = numbers.tensor(DType::float32, {count});
  const Tensor doubtful = list.tensor(DType::int32, {1 + most});
  normal_fill(stream, {.key = key, .std = deviation, .doubtful = doubtful, .output = output});
  std::vector<float> values(count);
  std::vector<int32_t> found(1 + most);
  copy(stream, output, {values.data(), DType::float32, Device::cpu, {count}});
  copy(stream, doubtful, {found.data(), DType::int32, Device::cpu, {1 + most}});
  stream.synchronize();
  ASSERT_LE(found[0], most);
  for (int32_t i = 0; i < found[0]; ++i) {
    const int32_t at = found[static_cast<size_t>(1 + i)];
    values[static_cast<size_t>(at)] = normal_value(key, at, deviation);
  }
  int64_t different = 0;
  for (int64_t i = 0; i < count; ++i) {
    different += values[static_cast<size_t>(i)] != normal_value(key, i, deviation) ? 1 : 0;
  }
  EXPECT_EQ(different, 0) << found[0] << " were doubtful";
}

}  // namespace
}  // namespace gsa::kernels
