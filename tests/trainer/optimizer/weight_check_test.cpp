// Ranks whose weights are not those of the others are found and named.
#include "trainer/weight_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/distributed/mpi_test.h"
#include "tests/support/scratch.h"

namespace gsa {
namespace {

using Sums = std::vector<std::vector<uint64_t>>;

TEST(DriftedRanks, AreThoseThatTheMajorityContradicts) {
  EXPECT_EQ(drifted_ranks(Sums{{5}}), std::vector<int>());
  EXPECT_EQ(drifted_ranks(Sums{{1, 2, 3}, {1, 2, 3}, {1, 2, 3}}), std::vector<int>());
  EXPECT_EQ(drifted_ranks(Sums{{1, 2, 3}, {1, 2, 9}, {1, 2, 3}}), std::vector<int>({1}));
  // An owner that differs from all others is the one that drifted.
  EXPECT_EQ(drifted_ranks(Sums{{1, 2, 3}, {1, 7, 3}, {1, 2, 3}}), std::vector<int>({1}));
  EXPECT_EQ(drifted_ranks(Sums{{9, 2, 3}, {1, 2, 3}, {1, 2, 9}}), std::vector<int>({0, 2}));
  // Of two, the owner is believed.
  EXPECT_EQ(drifted_ranks(Sums{{1, 2}, {1, 7}}), std::vector<int>({0}));
  EXPECT_EQ(drifted_ranks(Sums{{1, 2}, {8, 2}}), std::vector<int>({1}));
}

class WeightCheckTest : public ::testing::Test {
 protected:
  WeightCheckTest()
      : ranks_(testing::all_ranks()), store_(Device::cpu, DType::float32, ranks_->size()) {
    store_.begin_bucket();
    store_.add("matrix", {5, 3}, Initialization::normal);
    store_.begin_bucket();
    store_.add("norm", {7}, Initialization::ones);
    store_.allocate(ParameterStore::Memory::real);
    const Tensor weights = store_.all_weights();
    for (int64_t i = 0; i < weights.count(); ++i) {
      weights.as<float>()[i] = static_cast<float>(i) / 3;
    }
  }

  std::unique_ptr<Communicator> ranks_;
  test::TestStream stream_;
  ParameterStore store_;
};

TEST_F(WeightCheckTest, EqualWeightsPass) {
  WeightCheck check(store_, *ranks_);
  EXPECT_NO_THROW(check.run(stream_, 1));
  EXPECT_NO_THROW(check.run(stream_, 2));
}

TEST_F(WeightCheckTest, TheLastBitOfOneWeightOfOneRankIsFoundOnAllRanks) {
  if (ranks_->size() == 1) {
    GTEST_SKIP() << "one rank has nobody to differ from";
  }
  const int odd = ranks_->size() - 1;
  if (ranks_->rank() == odd) {
    float& weight = store_.all_weights().as<float>()[0];  // rank 0's part
    weight = std::nextafter(weight + 1, 2.0F);
  }
  WeightCheck check(store_, *ranks_);
  std::string error;
  try {
    check.run(stream_, 40);
  } catch (const std::runtime_error& failure) {
    error = failure.what();
  }
  EXPECT_THAT(error, ::testing::HasSubstr("after step 40 the weights of rank " +
                                          std::to_string(odd) + " are not"));
}

}  // namespace
}  // namespace gsa
