#include "tests/distributed/mpi_test.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <random>

namespace gsa::testing {
namespace {

MpiEnvironment* environment = nullptr;

// Prints the failures of ranks other than 0.
class FailuresOfRank : public ::testing::EmptyTestEventListener {
 public:
  explicit FailuresOfRank(int rank) : rank_(rank) {}
  void OnTestPartResult(const ::testing::TestPartResult& result) override {
    if (result.failed()) {
      std::fprintf(stderr, "rank %d: %s:%d: %s\n", rank_,
                   result.file_name() != nullptr ? result.file_name() : "?", result.line_number(),
                   result.message());
    }
  }

 private:
  int rank_;
};

}  // namespace

MpiEnvironment& mpi() {
  return *environment;
}

std::vector<float> contribution(int rank, int64_t elements, int round) {
  std::mt19937 generator(static_cast<unsigned>(1000 * (round + 1) + rank));
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> values(static_cast<size_t>(elements));
  for (float& value : values) {
    value = uniform(generator);
  }
  return values;
}

std::vector<float> sum_of_contributions(int ranks, int64_t elements, int round) {
  std::vector<float> sum(static_cast<size_t>(elements));
  for (int rank = 0; rank < ranks; ++rank) {
    const std::vector<float> values = contribution(rank, elements, round);
    for (size_t i = 0; i < sum.size(); ++i) {
      sum[i] += values[i];
    }
  }
  return sum;
}

Tensor host_tensor(std::vector<float>& values) {
  return {values.data(), DType::float32, Device::cpu, {static_cast<int64_t>(values.size())}};
}

bool gpus_are_apart(const std::string& reason) {
  return reason.find("cannot reach the memory of GPU") != std::string::npos;
}

std::unique_ptr<Communicator> all_ranks(double timeout_seconds) {
  return make_communicator(mpi(), Device::cpu, timeout_seconds);
}

}  // namespace gsa::testing

int main(int argc, char** argv) {
  gsa::MpiEnvironment mpi(argc, argv);
  gsa::testing::environment = &mpi;
  ::testing::InitGoogleTest(&argc, argv);
  if (mpi.rank() != 0) {
    ::testing::TestEventListeners& listeners = ::testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new gsa::testing::FailuresOfRank(mpi.rank()));  // owned by GoogleTest
  }
  return RUN_ALL_TESTS();
}
