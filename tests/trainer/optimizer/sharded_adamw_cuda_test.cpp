// The optimizer of several ranks on GPUs, which they may share, against that of as many ranks on
// the host: reductions behind each other, updates, gathering behind the next step's begin.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "kernels/optimizer.h"
#include "tests/distributed/mpi_test.h"
#include "tests/distributed/shared_gpu_ranks.h"
#include "trainer/model/tape.h"
#include "trainer/optimizer/sharded_adamw.h"

namespace gsa {
namespace {

using testing::contribution;
using testing::host_tensor;

constexpr double tokens = 100;
constexpr size_t scratch_bytes = size_t{1} << 20;

// A model's parameters and their optimizer on one kind of device.
class Side {
 public:
  Side(Device device, DType dtype, Communicator& ranks)
      : ranks_(ranks),
        stream_(device),
        scratch_(device, scratch_bytes),
        store_(device, dtype, ranks.size()),
        totals_memory_(device, 2 * sizeof(double)) {
    stream_.set_scratch(&scratch_);
    store_.begin_bucket();
    store_.add("embedding", {257, 63}, Initialization::normal, FirstUse::added);
    store_.begin_bucket();
    store_.add("norm", {63}, Initialization::ones);
    store_.add("matrix", {63, 129}, Initialization::normal);
    store_.begin_bucket();
    store_.add("head", {500, 63}, Initialization::normal);
    store_.allocate(ParameterStore::Memory::real);
    optimizer_.emplace(OptimizerConfig{}, store_, ranks, stream_);
    optimizer_->initialize(3, 0.02);
  }

  // A step with gradients of this number, queued; weights are on their way behind it.
  void step(int number) {
    optimizer_->wait_for_all_weights();
    for (int bucket = 0; bucket < store_.buckets(); ++bucket) {
      optimizer_->begin_gradients(bucket);
    }
    const Tensor gradients = store_.all_gradients();
    std::vector<float> values = contribution(ranks_.rank(), gradients.count(), number);
    copy(stream_, host_tensor(values), gradients);
    stream_.synchronize();  // the host's values go
    for (int bucket = store_.buckets(); bucket-- > 0;) {
      optimizer_->reduce(bucket);
    }
    std::vector<double> sums = {300, tokens};
    const Tensor totals = totals_memory_.tensor(DType::float64, {2});
    copy(stream_, Tensor(sums.data(), DType::float64, Device::cpu, {2}), totals);
    stream_.synchronize();
    optimizer_->update(0.01, totals, tokens);
  }
  std::vector<float> weights() {
    optimizer_->wait_for_all_weights();
    const Tensor all = store_.all_weights();
    const Buffer memory(store_.device(), static_cast<size_t>(all.count()) * sizeof(float));
    const Tensor floats = memory.tensor(DType::float32, {all.count()});
    kernels::convert(stream_, {.input = all, .output = floats});
    std::vector<float> values(static_cast<size_t>(all.count()));
    copy(stream_, floats, host_tensor(values));
    stream_.synchronize();
    return values;
  }

 private:
  Communicator& ranks_;
  Stream stream_;
  Tape scratch_;
  ParameterStore store_;
  Buffer totals_memory_;
  std::optional<ShardedAdamW> optimizer_;
};

class ShardedAdamWOnGpus : public ::testing::TestWithParam<DType> {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) {
      GTEST_SKIP() << "needs a GPU";
    }
    try {
      gpu_ranks_ = testing::shared_gpu_ranks();
    } catch (const CommunicationError& failure) {
      if (!testing::gpus_are_apart(failure.what())) {
        throw;
      }
      GTEST_SKIP() << failure.what();
    }
  }

  std::unique_ptr<Communicator> gpu_ranks_;
};

TEST_P(ShardedAdamWOnGpus, WeightsAreThoseOfRanksOnTheHost) {
  const auto host_ranks = testing::all_ranks();
  Side host(Device::cpu, GetParam(), *host_ranks);
  Side gpu(Device::cuda, GetParam(), *gpu_ranks_);
  // Numbers whose last bit the two devices round otherwise may differ by what a weight's holds.
  const double last_bit = GetParam() == DType::bfloat16 ? 1.0 / 128 : 1e-5;
  for (int number = 0; number < 6; ++number) {
    host.step(number);
    gpu.step(number);
    const std::vector<float> expected = host.weights();
    const std::vector<float> weights = gpu.weights();
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_NEAR(weights[i], expected[i], last_bit * std::abs(expected[i]) + 1e-6)
          << "weight " << i << " after step " << number;
    }
    const std::string mine(reinterpret_cast<const char*>(weights.data()),
                           weights.size() * sizeof(float));
    EXPECT_TRUE(host_ranks->broadcast_text(mine) == mine) << "another rank's weights";
  }
}

INSTANTIATE_TEST_SUITE_P(Dtypes, ShardedAdamWOnGpus,
                         ::testing::Values(DType::float32, DType::bfloat16),
                         [](const auto& suite) { return name_of(suite.param); });

}  // namespace
}  // namespace gsa
