// The optimizer's operations and the runtime on CUDA.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/kernels/cuda/both_devices.h"

namespace gsa::kernels {
namespace {

using test::all_layouts;
using test::Bench;
using test::expect_as_on_cpu;
using test::Layout;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

class Cuda : public testing::Test {
 protected:
  void SetUp() override { GSA_SKIP_WITHOUT_CUDA() }
};
using CudaOptimizer = Cuda;
using CudaRuntime = Cuda;

// Offsets into a buffer shift the alignment, as a rank's shard of the flat buffers does.
TEST_F(CudaOptimizer, SumIsAsOnTheCpu) {
  for (const int64_t length : {1, 10'007}) {
    for (const int count : {1, 2, 3, kernels::Sum::max_inputs}) {
      for (const Layout& layout : all_layouts) {
        const std::string name = "sum of " + std::to_string(count) + " times " +
                                 std::to_string(length) + " from " + std::to_string(layout.offset);
        expect_as_on_cpu(name, DType::float32, 0, [&](Bench& bench) {
          kernels::Sum args{.count = count};
          for (int i = 0; i < count; ++i) {
            args.inputs.at(static_cast<size_t>(i)) = bench.random_float({length}, -1, 1, layout);
          }
          args.output = bench.random_float({length}, -1, 1, layout);
          sum(bench.stream(), args);
          bench.keep("output", args.output);
        });
      }
    }
  }
}

TEST_F(CudaOptimizer, SquaredNormIsAsOnTheCpu) {
  for (const int64_t count : {1, 7, 4096, 3'000'003}) {
    for (const Layout& layout : all_layouts) {
      const std::string name =
          "squared_norm of " + std::to_string(count) + " from " + std::to_string(layout.offset);
      expect_as_on_cpu(name, DType::float32, 1e-12, [&](Bench& bench) {
        const Tensor input = bench.random_float({count}, -1e25, 1e25, layout);  // squares overflow
        const Tensor sum = bench.values(DType::float64, {1}, {1e50});
        squared_norm(bench.stream(), {.input = input, .sum = sum});
        bench.keep("sum, accumulated", sum);
      });
    }
  }
}

TEST_F(CudaOptimizer, ClipScaleIsAsOnTheCpu) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  struct Case {
    double squared_norm, loss, counted, max_norm;
    bool finite;
    double loss_limit = infinity;
  };
  for (const Case& c :
       {Case{4, 100, 512, 1, true}, Case{4, 100, 512, 0, true}, Case{0.25, 100, 500, 1, true},
        Case{0, 100, 512, 1, true}, Case{infinity, 100, 512, 1, false}, Case{4, nan, 512, 1, false},
        Case{4, 0, 0, 1, false}, Case{4, 100, 50, 1, true, 2}, Case{4, 101, 50, 1, false, 2}}) {
    std::vector<double> scales;
    for (const Device device : {Device::cpu, Device::cuda}) {
      Bench bench(device, DType::float32, false);
      const Tensor norm = bench.output(DType::float64, {1});
      const Tensor scale = bench.output(DType::float64, {1});
      clip_scale(bench.stream(),
                 {.squared_norm = bench.values(DType::float64, {1}, {c.squared_norm}),
                  .totals = bench.values(DType::float64, {2}, {c.loss, c.counted}),
                  .nominal_tokens = 512,
                  .max_norm = c.max_norm,
                  .loss_limit = c.loss_limit,
                  .norm = norm,
                  .scale = scale});
      bench.keep("scale", scale);
      scales.push_back(bench.results()[0].values[0]);
    }
    EXPECT_EQ(std::isfinite(scales[0]), c.finite);
    EXPECT_EQ(std::isfinite(scales[1]), c.finite);
    if (c.finite) {
      EXPECT_DOUBLE_EQ(scales[0], scales[1]);
    }
  }
}

// A step of AdamW whose gradient scale is `scale`; with bfloat16 weights masters are in two parts.
void check_adamw(int64_t count, double scale, Layout layout) {
  const std::string name = "adamw of " + std::to_string(count) + " from " +
                           std::to_string(layout.offset) + ", scale " + std::to_string(scale);
  expect_as_on_cpu(name, [&](Bench& bench) {
    AdamW args{.gradient = bench.random_float({count}, -1, 1, layout),
               .scale = bench.values(DType::float64, {1}, {scale}),
               .learning_rate = 3e-2,
               .weight_decay = 0.1,
               .step = 3,
               .without_decay = {{{count / 3, count / 2}, {count - 1, count}}},
               .first_moment = bench.random_float({count}, -1, 1, layout),
               .second_moment = bench.random_float({count}, 0, 1, layout),
               .weights = bench.random({count}, -1, 1, layout)};
    const Tensor master = bench.random_float({count}, -1, 1, layout);
    // The CPU computes what is expected in float32, with masters by themselves.
    if (bench.dtype() == DType::bfloat16) {
      args.remainder = bench.output(DType::int16, {count}, layout);
      split_master(bench.stream(),
                   {.master = master, .weights = args.weights, .remainder = args.remainder});
    } else {
      args.master = master;
      convert(bench.stream(), {.input = master, .output = args.weights});
    }
    adamw(bench.stream(), args);
    if (args.remainder) {
      join_master(bench.stream(),
                  {.weights = args.weights, .remainder = args.remainder, .master = master});
    }
    bench.keep("master", master);
    bench.keep("first_moment", args.first_moment);
    bench.keep("second_moment", args.second_moment);
    bench.keep("weights", args.weights);
  });
}

TEST_F(CudaOptimizer, AdamWIsAsOnTheCpu) {
  for (const Layout& layout : all_layouts) {
    check_adamw(1, 0.5, layout);
    check_adamw(10007, 0.5, layout);
    check_adamw(10007, nan, layout);
  }
}

TEST_F(CudaOptimizer, MastersInTwoPartsAreAsOnTheCpu) {
  for (const int64_t count : {1, 8, 10007}) {
    for (const Layout& layout : all_layouts) {
      std::vector<std::vector<std::byte>> bits;
      for (const Device device : {Device::cpu, Device::cuda}) {
        Bench bench(device, DType::float32, false);
        const Tensor master = bench.random_float({count}, -100, 100, layout);
        const Tensor weights = bench.output(DType::bfloat16, {count}, layout);
        const Tensor remainder = bench.output(DType::int16, {count}, layout);
        const Tensor joined = bench.output(DType::float32, {count}, layout);
        split_master(bench.stream(),
                     {.master = master, .weights = weights, .remainder = remainder});
        join_master(bench.stream(), {.weights = weights, .remainder = remainder, .master = joined});
        bench.keep("master", master);
        bench.keep("weights", weights);
        bench.keep("remainder", remainder);
        bench.keep("joined", joined);
        for (const Bench::Result& result : bench.results()) {
          bits.push_back(result.bits);
        }
      }
      EXPECT_EQ(bits[0], bits[3]);
      for (size_t i = 0; i < 4; ++i) {
        EXPECT_EQ(bits[i], bits[i + 4]);
      }
    }
  }
}

TEST_F(CudaOptimizer, ConvertRoundsAsTheCpuDoes) {
  for (const int64_t count : {1, 8, 10007}) {
    for (const Layout& layout : all_layouts) {
      std::vector<std::vector<std::byte>> bits;
      for (const Device device : {Device::cpu, Device::cuda}) {
        Bench bench(device, DType::float32, false);
        const Tensor input = bench.random_float({count}, -100, 100, layout);
        const Tensor half = bench.output(DType::bfloat16, {count}, layout);
        convert(bench.stream(), {.input = input, .output = half});
        bench.keep("bfloat16", half);
        const Tensor back = bench.output(DType::float32, {count}, layout);
        convert(bench.stream(), {.input = half, .output = back});
        bench.keep("float32", back);
        bits.push_back(bench.results()[0].bits);
        bits.push_back(bench.results()[1].bits);
      }
      EXPECT_EQ(bits[0], bits[2]);
      EXPECT_EQ(bits[1], bits[3]);
    }
  }
}

TEST_F(CudaRuntime, DescribesTheDeviceAndRefusesOthers) {
  const DeviceInfo info = device_info(Device::cuda);
  EXPECT_FALSE(info.name.empty());
  EXPECT_GT(info.memory_bytes, 0U);
  EXPECT_LE(info.free_bytes, info.memory_bytes);
  EXPECT_THROW(device_info(Device::cuda, cuda_device_count()), DeviceError);
  EXPECT_THROW(use_device(Device::cuda, -1), DeviceError);
  use_device(Device::cuda, 0);
}

TEST_F(CudaRuntime, OutOfMemorySaysHowMuchThereIs) {
  const size_t asked = 4 * device_info(Device::cuda).memory_bytes;
  try {
    const Buffer buffer(Device::cuda, asked);
    FAIL() << "more memory than there is was given";
  } catch (const OutOfMemory& error) {
    EXPECT_NE(std::string(error.what()).find("GiB are free"), std::string::npos) << error.what();
  }
  const Buffer small(Device::cuda, 1);  // the error is gone
  EXPECT_NE(small.data(), nullptr);
}

TEST_F(CudaRuntime, CopiesAndFillsInOrderOfEvents) {
  constexpr int64_t count = 1 << 20;
  constexpr size_t bytes = count * sizeof(float);
  const Buffer pinned(Device::cuda, bytes, MemoryKind::pinned);
  const Buffer device(Device::cuda, bytes);
  const Buffer back(Device::cuda, bytes, MemoryKind::pinned);
  const Tensor from = pinned.tensor(DType::float32, {count});
  const Tensor there = device.tensor(DType::float32, {count});
  const Tensor to = back.tensor(DType::float32, {count});
  std::fill_n(from.as<float>(), count, 3.0F);
  Stream first(Device::cuda);
  Stream second(Device::cuda);
  Event start(Device::cuda);
  Event copied(Device::cuda);
  start.record(first);
  copy(first, from, there);
  fill_zero(first, there.rows(0, count / 2));
  copied.record(first);
  second.wait(copied);
  copy(second, there, to);
  second.synchronize();
  EXPECT_EQ(to.as<float>()[0], 0.0F);
  EXPECT_EQ(to.as<float>()[count / 2 - 1], 0.0F);
  EXPECT_EQ(to.as<float>()[count / 2], 3.0F);
  EXPECT_EQ(to.as<float>()[count - 1], 3.0F);
  EXPECT_GT(copied.milliseconds_since(start), 0);
}

}  // namespace
}  // namespace gsa::kernels
