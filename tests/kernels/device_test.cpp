#include "kernels/device.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <string>

#include "kernels/captured_work.h"
#include "tests/support/scratch.h"

namespace gsa {
namespace {

constexpr uintptr_t alignment = 256;

TEST(CpuBuffer, IsAlignedAndLendsTensors) {
  for (const size_t bytes : {1, 255, 257, 4096}) {
    const Buffer buffer(Device::cpu, bytes);
    EXPECT_EQ(buffer.bytes(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % alignment, 0U);
    std::memset(buffer.data(), 1, bytes);
  }
  const Buffer buffer(Device::cpu, 24 * sizeof(float));
  const Tensor whole = buffer.tensor(DType::float32, {4, 6});
  EXPECT_EQ(whole.device(), Device::cpu);
  const Tensor end = buffer.tensor(DType::float32, {6}, 18 * sizeof(float));
  EXPECT_EQ(end.as<float>(), whole.as<float>() + 18);
}

TEST(CpuBuffer, RefusesTensorsThatDoNotFit) {
  const Buffer buffer(Device::cpu, 40);
  EXPECT_NO_THROW(buffer.tensor(DType::float32, {10}));
  EXPECT_THROW(buffer.tensor(DType::float64, {10}), std::invalid_argument);
  try {
    buffer.tensor(DType::float32, {10}, 4);
    FAIL() << "44 bytes fit into 40";
  } catch (const std::invalid_argument& error) {
    EXPECT_STREQ(error.what(), "a tensor [10] ends at byte 44 of a buffer of 40");
  }
}

TEST(CpuBuffer, OfNothingIsEmpty) {
  const Buffer empty(Device::cpu, 0);
  EXPECT_EQ(empty.data(), nullptr);
  EXPECT_FALSE(bool(empty.tensor(DType::float32, {0})));
}

TEST(CpuBuffer, MovesItsMemory) {
  Buffer first(Device::cpu, 16);
  const std::byte* data = first.data();
  Buffer second(std::move(first));
  EXPECT_EQ(second.data(), data);
  Buffer third(Device::cpu, 8);
  third = std::move(second);
  EXPECT_EQ(third.data(), data);
  EXPECT_EQ(third.bytes(), 16U);
}

TEST(CpuBuffer, SaysWhenThereIsNotEnoughMemory) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "the address sanitizer ends the program where memory runs out";
#endif
  const size_t too_much = size_t{1} << 60;
  EXPECT_THROW(Buffer(Device::cpu, too_much), OutOfMemory);
  EXPECT_THROW(Buffer(Device::cpu, std::numeric_limits<size_t>::max()), OutOfMemory);
}

TEST(CpuDevice, DescribesItself) {
  const DeviceInfo info = device_info(Device::cpu);
  EXPECT_EQ(info.name.rfind("CPU, ", 0), 0U) << info.name;
  EXPECT_GT(info.memory_bytes, 0U);
  EXPECT_LE(info.free_bytes, info.memory_bytes);
  const test::ThreadCount one(1);
  EXPECT_EQ(device_info(Device::cpu).name, "CPU, 1 thread");
}

TEST(CpuStream, RunsAtOnce) {
  Stream stream(Device::cpu);
  EXPECT_FALSE(stream.is_planning());
  EXPECT_EQ(stream.native(), nullptr);
  const Buffer a(Device::cpu, 12);
  const Buffer b(Device::cpu, 12);
  const Tensor source = a.tensor(DType::float32, {3});
  const Tensor target = b.tensor(DType::float32, {3});
  for (int i = 0; i < 3; ++i) {
    source.as<float>()[i] = float(i + 1);
  }
  copy(stream, source, target);
  EXPECT_EQ(target.as<float>()[2], 3);
  fill_zero(stream, target);
  EXPECT_EQ(target.as<float>()[2], 0);
  stream.synchronize();
}

TEST(CpuStream, CopiesAnyDtypeAndRefusesMismatches) {
  Stream stream(Device::cpu);
  const Buffer a(Device::cpu, 64);
  const Buffer b(Device::cpu, 64);
  const Tensor half = a.tensor(DType::bfloat16, {4});
  const Tensor half_target = b.tensor(DType::bfloat16, {2, 2});
  std::memset(a.data(), 0x3F, 8);
  copy(stream, half, half_target);  // another shape, the same count
  EXPECT_EQ(half_target.as<bfloat16_t>()[3].bits, 0x3F3F);

  const Tensor matrix = a.tensor(DType::float32, {4, 4});
  const Tensor other = b.tensor(DType::float32, {4, 4});
  EXPECT_THROW(copy(stream, matrix, other.rows(0, 2)), std::invalid_argument);
  EXPECT_THROW(copy(stream, matrix.columns(0, 2), other.columns(0, 2)), std::invalid_argument);
  EXPECT_THROW(copy(stream, a.tensor(DType::int32, {4, 4}), other), std::invalid_argument);
  EXPECT_THROW(fill_zero(stream, matrix.columns(0, 2)), std::invalid_argument);
}

TEST(CpuStream, MovesWhatItWasGiven) {
  test::TestScratch scratch;
  Stream first(Device::cpu);
  first.set_scratch(&scratch);
  const Stream second(std::move(first));
  EXPECT_EQ(second.scratch(), &scratch);
}

TEST(PlanningStream, RunsNothing) {
  Stream stream = Stream::planning(Device::cpu);
  EXPECT_TRUE(stream.is_planning());
  const Buffer buffer(Device::cpu, 4);
  const Tensor x = buffer.tensor(DType::int32, {1});
  x.as<int32_t>()[0] = 7;
  fill_zero(stream, x);
  EXPECT_EQ(x.as<int32_t>()[0], 7);
  const Tensor nowhere(nullptr, DType::int32, Device::cpu, {1});
  EXPECT_NO_THROW(copy(stream, x, nowhere));
}

TEST(PlanningStream, PlansForCudaOnAnyMachine) {
  Stream stream = Stream::planning(Device::cuda);
  EXPECT_EQ(stream.device(), Device::cuda);
  EXPECT_TRUE(stream.is_planning());
  EXPECT_EQ(stream.native(), nullptr);
}

TEST(CpuEvent, MeasuresForward) {
  Stream stream(Device::cpu);
  Event start(Device::cpu);
  Event end(Device::cpu);
  start.record(stream);
  end.record(stream);
  end.synchronize();
  stream.wait(end);
  EXPECT_GE(end.milliseconds_since(start), 0);
}

TEST(CapturedWork, RunsWhenAskedOnTheCpu) {
  Stream stream(Device::cpu);
  int runs = 0;
  CapturedWork work(stream, [&] { ++runs; });
  EXPECT_EQ(runs, 0);
  work.run();
  work.run();
  EXPECT_EQ(runs, 2);
}

TEST(CudaDevice, AbsentIsSaidClearly) {
  if (cuda_device_count() > 0) {
    GTEST_SKIP() << "this machine has a CUDA device";
  }
  EXPECT_THROW(Buffer(Device::cuda, 16), DeviceError);
  EXPECT_THROW(device_info(Device::cuda), DeviceError);
}

TEST(TestScratchMemory, LendsInOrderAndShowsWhatWasNotWritten) {
  test::TestScratch scratch;
  const std::byte* first = scratch.lend(8);
  EXPECT_EQ(first[7], std::byte{0xFF});
  scratch.lend(100);
  EXPECT_EQ(scratch.lent(), 2U);
  EXPECT_EQ(scratch.largest_loan(), 100U);
  EXPECT_THROW(scratch.give_back(8), std::logic_error);
  scratch.give_back(100);
  scratch.give_back(8);
  EXPECT_EQ(scratch.lent(), 0U);
}

}  // namespace
}  // namespace gsa
