// Communication between GPUs; skipped on a machine with fewer GPUs than ranks.
#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "tests/distributed/mpi_test.h"
#include "trainer/distributed/communicator.h"
#include "trainer/distributed/open_memory.h"

namespace gsa {
namespace {

using testing::contribution;
using testing::host_tensor;
using testing::mpi;
using testing::sum_of_contributions;

// NCCL sums in an order of its own: at most one rounding a rank, on values of size one.
constexpr float sum_tolerance = 1e-5F;
constexpr int64_t count = 3 * 65536 + 4;  // a rank; several of NCCL's blocks and a rest

class NcclTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() < mpi().size()) {
      GTEST_SKIP() << mpi().size() << " ranks need as many GPUs, this machine has "
                   << cuda_device_count();
    }
    ranks_ = make_communicator(mpi(), Device::cuda, testing::test_timeout_seconds);
  }

  // The sum over ranks of [count * ranks] values, this rank's part, by reduce_scatter on the GPU.
  std::vector<float> reduced(std::vector<float> input) {
    Stream stream(Device::cuda);
    const Buffer memory(Device::cuda, input.size() * sizeof(float));
    const Tensor all = memory.tensor(DType::float32, {static_cast<int64_t>(input.size())});
    const Tensor own = all.rows(ranks_->rank() * count, (ranks_->rank() + 1) * count);
    std::vector<float> output(static_cast<size_t>(count));
    copy(stream, host_tensor(input), all);
    ranks_->reduce_scatter(stream, all, own);
    copy(stream, own, host_tensor(output));
    stream.synchronize();
    return output;
  }

  static std::unique_ptr<Communicator> copying_ranks(
      double timeout_seconds = testing::test_timeout_seconds) {
    setenv("GSA_PEER_COPIES", "on", /*overwrite=*/1);
    auto ranks = make_communicator(mpi(), Device::cuda, timeout_seconds);
    unsetenv("GSA_PEER_COPIES");
    return ranks;
  }

  std::unique_ptr<Communicator> ranks_;
};

TEST_F(NcclTest, ReduceScatterSumsAndRepeatsItsBits) {
  const int64_t all = count * ranks_->size();
  const std::vector<float> output = reduced(contribution(ranks_->rank(), all));
  const std::vector<float> expected = sum_of_contributions(ranks_->size(), all);
  const auto own = static_cast<size_t>(ranks_->rank() * count);
  for (size_t i = 0; i < output.size(); ++i) {
    ASSERT_NEAR(output[i], expected[own + i], sum_tolerance) << i;
  }
  EXPECT_EQ(reduced(contribution(ranks_->rank(), all)), output);
}

TEST_F(NcclTest, AllGatherKeepsTheOrderOfRanksInPlace) {
  Stream stream(Device::cuda);
  const int64_t all = count * ranks_->size();
  const Buffer memory(Device::cuda, static_cast<size_t>(all) * sizeof(float));
  const Tensor gathered = memory.tensor(DType::float32, {all});
  const Tensor own = gathered.rows(ranks_->rank() * count, (ranks_->rank() + 1) * count);
  std::vector<float> mine = contribution(ranks_->rank(), count);
  std::vector<float> output(static_cast<size_t>(all));
  copy(stream, host_tensor(mine), own);
  ranks_->all_gather(stream, own, gathered);
  copy(stream, gathered, host_tensor(output));
  stream.synchronize();
  for (int rank = 0; rank < ranks_->size(); ++rank) {
    const auto begin = output.begin() + rank * count;
    EXPECT_EQ(std::vector<float>(begin, begin + count), contribution(rank, count));
  }
}

// With open memory the same collectives are copies, where the ranks can reach each other.
TEST_F(NcclTest, CopiesGiveTheSumInTheOrderOfRanksAndGatherTheSame) {
  ranks_ = copying_ranks();
  Stream stream(Device::cuda);
  Stream other(Device::cuda);
  const int rank = ranks_->rank();
  for (const int64_t part : {int64_t{1}, int64_t{1003}, count, 20 * count}) {
    const int64_t all = part * ranks_->size();
    const auto bytes = static_cast<size_t>(all) * sizeof(float);
    const Buffer weight_memory(Device::cuda, bytes);
    const Buffer gradient_memory(Device::cuda, bytes);
    const Tensor weights = weight_memory.tensor(DType::float32, {all});
    const Tensor gradients = gradient_memory.tensor(DType::float32, {all});
    const auto own = [&](const Tensor& tensor) {
      return tensor.rows(rank * part, (rank + 1) * part);
    };
    const std::vector<float> expected = sum_of_contributions(ranks_->size(), all);
    const OpenMemory open(*ranks_, weights, own(gradients).bytes());
    std::vector<float> values = contribution(rank, all);
    std::vector<float> output(static_cast<size_t>(all));
    // Again and again, in turns on two streams: each waits for the one before.
    for (int i = 0; i < 20; ++i) {
      Stream& now = i % 2 == 0 ? stream : other;
      copy(now, host_tensor(values), gradients);
      fill_zero(now, weights);
      ranks_->reduce_scatter(now, gradients, own(gradients));
      copy(now, own(gradients), own(weights));
      ranks_->all_gather(now, own(weights), weights);
      copy(now, weights, host_tensor(output));
      now.synchronize();
      if (ranks_->copies_memory()) {
        ASSERT_EQ(output, expected) << "round " << i << " of " << part;
      } else {
        for (size_t j = 0; j < expected.size(); ++j) {
          ASSERT_NEAR(output[j], expected[j], sum_tolerance) << j;
        }
      }
    }
  }
}

TEST_F(NcclTest, RanksCopyWhereTheyAreAskedTo) {
  EXPECT_FALSE(ranks_->copies_memory());
  EXPECT_EQ(ranks_->transport(), ranks_->size() > 1 ? "NCCL" : "none: one rank");
  const auto copying = copying_ranks();
  if (testing::gpus_are_apart(copying->transport())) {
    GTEST_SKIP() << copying->transport();
  }
  EXPECT_EQ(copying->copies_memory(), copying->size() > 1) << copying->transport();
}

TEST_F(NcclTest, AllReduceGivesEveryRankTheSameBits) {
  Stream stream(Device::cuda);
  const Buffer memory(Device::cuda, static_cast<size_t>(count) * sizeof(float));
  const Tensor tensor = memory.tensor(DType::float32, {count});
  std::vector<float> values = contribution(ranks_->rank(), count);
  copy(stream, host_tensor(values), tensor);
  ranks_->all_reduce(stream, tensor);
  copy(stream, tensor, host_tensor(values));
  stream.synchronize();
  const auto* bytes = reinterpret_cast<const char*>(values.data());
  const std::string mine(bytes, values.size() * sizeof(float));
  EXPECT_EQ(ranks_->broadcast_text(mine), mine);
}

TEST_F(NcclTest, ARankThatNeverComesIsNamedByTheOthers) {
  if (mpi().size() == 1) {
    GTEST_SKIP() << "one rank waits for nobody";
  }
  const auto host_ranks = testing::all_ranks();
  constexpr double patience_seconds = 3;
  // Missing from the start, while NCCL connects the ranks; or later, when the device waits.
  for (const bool from_the_start : {true, false}) {
    const auto ranks = make_communicator(mpi(), Device::cuda, patience_seconds);
    const int absent = ranks->size() - 1;
    Stream stream(Device::cuda);
    const Buffer memory(Device::cuda, static_cast<size_t>(count) * sizeof(float));
    const Tensor tensor = memory.tensor(DType::float32, {count});
    fill_zero(stream, tensor);
    if (!from_the_start) {
      ranks->all_reduce(stream, tensor);
      stream.synchronize();
    }
    if (ranks->rank() != absent) {
      std::string error;
      try {
        ranks->all_reduce(stream, tensor);
        stream.synchronize();  // comes back when the watchdog has ended the collective
        ranks->require_healthy();
      } catch (const CommunicationError& failure) {
        error = failure.what();
      }
      const std::string own = std::to_string(ranks->rank());
      const std::string what =
          from_the_start ? "all_reduce on rank " : "all_reduce (collective 2) on rank ";
      EXPECT_NE(error.find(what + own), std::string::npos) << error;
      EXPECT_NE(error.find("rank " + std::to_string(absent) + " does not answer"),
                std::string::npos)
          << error;
    }
    host_ranks->barrier();
  }
}

// The same where the device waits for another rank's copies.
TEST_F(NcclTest, ARankThatDoesNotCopyIsNamedByTheOthers) {
  const auto host_ranks = testing::all_ranks();
  constexpr double patience_seconds = 3;
  const auto ranks = copying_ranks(patience_seconds);
  if (!ranks->copies_memory()) {
    GTEST_SKIP() << ranks->transport();
  }
  const int absent = ranks->size() - 1;
  Stream stream(Device::cuda);
  const int64_t all = count * ranks->size();
  const Buffer memory(Device::cuda, static_cast<size_t>(all) * sizeof(float));
  const Tensor weights = memory.tensor(DType::float32, {all});
  const Tensor own = weights.rows(ranks->rank() * count, (ranks->rank() + 1) * count);
  fill_zero(stream, weights);
  const OpenMemory open(*ranks, weights, own.bytes());
  ranks->all_gather(stream, own, weights);
  stream.synchronize();
  if (ranks->rank() != absent) {
    std::string error;
    try {
      for (int i = 0; i < 3; ++i) {
        ranks->all_gather(stream, own, weights);
        ranks->reduce_scatter(stream, weights, own);
      }
      stream.synchronize();
      ranks->require_healthy();
    } catch (const CommunicationError& failure) {
      error = failure.what();
    }
    EXPECT_NE(error.find("all_gather (collective 2) on rank " + std::to_string(ranks->rank())),
              std::string::npos)
        << error;
    EXPECT_NE(error.find("rank " + std::to_string(absent) + " does not answer"), std::string::npos)
        << error;
  }
  host_ranks->barrier();
}

TEST_F(NcclTest, EachRankOfAHostHasItsOwnGpu) {
  EXPECT_EQ(ranks_->local_size(), mpi().size());  // the test runs on one host
  EXPECT_LT(ranks_->local_rank(), cuda_device_count());
  EXPECT_EQ(ranks_->all_gather_text(std::to_string(ranks_->local_rank())).back(),
            std::to_string(mpi().size() - 1));
}

}  // namespace
}  // namespace gsa
