#include "tests/distributed/mpi_test.h"

#include <gtest/gtest.h>

#include <cstdio>

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
