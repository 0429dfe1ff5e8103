#include "trainer/distributed/communicator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "tests/distributed/mpi_test.h"

namespace gsa {
namespace {

using testing::all_ranks;
using testing::mpi;

// Elements: none, one, odd, and past several blocks of a message (256 KiB) by an odd number.
const std::vector<int64_t> counts{0, 1, 7, 1023, 3 * 65536 + 5};

// What rank `rank` contributes: the same on every rank that asks.
template <typename T>
std::vector<T> contribution(int rank, int64_t count) {
  std::mt19937 generator(static_cast<unsigned>(1000 + rank));
  std::normal_distribution<double> normal;
  std::vector<T> values(static_cast<size_t>(count));
  std::generate(values.begin(), values.end(), [&] { return static_cast<T>(normal(generator)); });
  return values;
}

// The sum of all contributions in rank order, in T.
template <typename T>
std::vector<T> sum_of_all(int ranks, int64_t count) {
  std::vector<T> sum = contribution<T>(0, count);
  for (int rank = 1; rank < ranks; ++rank) {
    const std::vector<T> values = contribution<T>(rank, count);
    for (size_t i = 0; i < sum.size(); ++i) {
      sum[i] += values[i];
    }
  }
  return sum;
}

template <typename T>
Tensor tensor_of(std::vector<T>& values) {
  return {values.data(), DTypeOf<T>::value, Device::cpu, {static_cast<int64_t>(values.size())}};
}

template <typename T>
std::vector<T> part(const std::vector<T>& values, int rank, int64_t count) {
  const auto begin = values.begin() + rank * count;
  return {begin, begin + count};
}

template <typename T>
class CommunicatorSums : public ::testing::Test {};
using SummedTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(CommunicatorSums, SummedTypes);

TYPED_TEST(CommunicatorSums, ReduceScatterSumsInRankOrder) {
  const auto ranks = all_ranks();
  Stream stream(Device::cpu);
  for (const int64_t count : counts) {
    const int64_t all = count * ranks->size();
    std::vector<TypeParam> input = contribution<TypeParam>(ranks->rank(), all);
    const std::vector<TypeParam> expected =
        part(sum_of_all<TypeParam>(ranks->size(), all), ranks->rank(), count);
    std::vector<TypeParam> output(static_cast<size_t>(count));
    ranks->reduce_scatter(stream, tensor_of(input), tensor_of(output));
    EXPECT_EQ(output, expected) << count << " elements";
    EXPECT_EQ(input, contribution<TypeParam>(ranks->rank(), all)) << "the input was changed";
  }
}

TYPED_TEST(CommunicatorSums, ReduceScatterMayWriteIntoItsInput) {
  const auto ranks = all_ranks();
  Stream stream(Device::cpu);
  for (const int64_t count : counts) {
    const int64_t all = count * ranks->size();
    std::vector<TypeParam> data = contribution<TypeParam>(ranks->rank(), all);
    const Tensor own = tensor_of(data).rows(ranks->rank() * count, (ranks->rank() + 1) * count);
    ranks->reduce_scatter(stream, tensor_of(data), own);
    EXPECT_EQ(part(data, ranks->rank(), count),
              part(sum_of_all<TypeParam>(ranks->size(), all), ranks->rank(), count));
  }
}

TYPED_TEST(CommunicatorSums, AllReduceSumsInRankOrder) {
  const auto ranks = all_ranks();
  Stream stream(Device::cpu);
  for (const int64_t count : counts) {
    std::vector<TypeParam> data = contribution<TypeParam>(ranks->rank(), count);
    ranks->all_reduce(stream, tensor_of(data));
    EXPECT_EQ(data, sum_of_all<TypeParam>(ranks->size(), count)) << count << " elements";
  }
}

template <typename T>
class CommunicatorGathers : public ::testing::Test {};
using GatheredTypes = ::testing::Types<float, double, int32_t>;
TYPED_TEST_SUITE(CommunicatorGathers, GatheredTypes);

TYPED_TEST(CommunicatorGathers, AllGatherKeepsTheOrderOfRanks) {
  const auto ranks = all_ranks();
  Stream stream(Device::cpu);
  for (const int64_t count : counts) {
    std::vector<TypeParam> input = contribution<TypeParam>(ranks->rank(), count);
    std::vector<TypeParam> output(static_cast<size_t>(count * ranks->size()));
    ranks->all_gather(stream, tensor_of(input), tensor_of(output));
    for (int rank = 0; rank < ranks->size(); ++rank) {
      EXPECT_EQ(part(output, rank, count), contribution<TypeParam>(rank, count));
    }
  }
}

TYPED_TEST(CommunicatorGathers, AllGatherMayReadFromItsOutput) {
  const auto ranks = all_ranks();
  Stream stream(Device::cpu);
  for (const int64_t count : counts) {
    const std::vector<TypeParam> mine = contribution<TypeParam>(ranks->rank(), count);
    std::vector<TypeParam> data(static_cast<size_t>(count * ranks->size()));
    std::copy(mine.begin(), mine.end(), data.begin() + ranks->rank() * count);
    const Tensor own = tensor_of(data).rows(ranks->rank() * count, (ranks->rank() + 1) * count);
    ranks->all_gather(stream, own, tensor_of(data));
    for (int rank = 0; rank < ranks->size(); ++rank) {
      EXPECT_EQ(part(data, rank, count), contribution<TypeParam>(rank, count));
    }
  }
}

TEST(Communicator, AllGatherTakesTwoByteElements) {
  const auto ranks = all_ranks();
  Stream stream(Device::cpu);
  const bfloat16_t mine{static_cast<uint16_t>(ranks->rank() + 1)};
  std::vector<bfloat16_t> all(static_cast<size_t>(ranks->size()));
  ranks->all_gather(stream, ConstTensor(&mine, DType::bfloat16, Device::cpu, {1}),
                    Tensor(all.data(), DType::bfloat16, Device::cpu, {ranks->size()}));
  for (size_t rank = 0; rank < all.size(); ++rank) {
    EXPECT_EQ(all[rank].bits, rank + 1);
  }
}

TEST(Communicator, TextsArriveWholeAndInOrder) {
  const auto ranks = all_ranks();
  // Nothing, bytes that end strings elsewhere, and more than one message.
  const auto text_of = [](int rank, size_t length) {
    return std::string(length, static_cast<char>('a' + rank)) + std::string(1, '\0');
  };
  for (const size_t length : {size_t{0}, size_t{5}, size_t{600000}}) {
    const size_t mine = length * static_cast<size_t>(ranks->rank());  // rank 0 says little
    const std::vector<std::string> texts = ranks->all_gather_text(text_of(ranks->rank(), mine));
    ASSERT_EQ(texts.size(), static_cast<size_t>(ranks->size()));
    for (int rank = 0; rank < ranks->size(); ++rank) {
      EXPECT_EQ(texts[static_cast<size_t>(rank)],
                text_of(rank, length * static_cast<size_t>(rank)));
    }
    EXPECT_EQ(ranks->broadcast_text(text_of(ranks->rank(), length)), text_of(0, length));
  }
  ranks->barrier();
}

TEST(Communicator, KnowsItsPlace) {
  const auto ranks = all_ranks();
  EXPECT_EQ(ranks->rank(), mpi().rank());
  EXPECT_EQ(ranks->size(), mpi().size());
  EXPECT_EQ(ranks->local_size(), mpi().size());  // the test runs on one host
  EXPECT_EQ(ranks->local_rank(), mpi().rank());
}

TEST(Communicator, NamesTheRankThatDoesNotCome) {
  if (mpi().size() == 1) {
    GTEST_SKIP() << "one rank waits for nobody";
  }
  constexpr double short_timeout_seconds = 0.3;
  const auto ranks = all_ranks(short_timeout_seconds);
  const int absent = ranks->size() - 1;
  if (ranks->rank() == absent) {
    return;
  }
  try {
    ranks->barrier();
    FAIL() << "the barrier returned without rank " << absent;
  } catch (const LostRanksError& error) {
    // Who was called to the roll by another has waited a little less than the time-out.
    EXPECT_THAT(error.what(),
                ::testing::MatchesRegex("barrier on rank " + std::to_string(ranks->rank()) +
                                        ": waited 0.[0-9]+ s for rank " + std::to_string(absent) +
                                        "; .*distributed.timeout"));
  }
  EXPECT_THROW(ranks->barrier(), CommunicationError);  // it does not pretend to go on
}

TEST(Communicator, RejectsTensorsThatDoNotFit) {
  const auto ranks = all_ranks();
  Stream stream(Device::cpu);
  std::vector<float> one(1);
  std::vector<float> many(static_cast<size_t>(ranks->size() + 1));
  std::vector<int32_t> whole(1);
  EXPECT_THROW(ranks->reduce_scatter(stream, tensor_of(many), tensor_of(one)),
               std::invalid_argument);
  EXPECT_THROW(ranks->all_gather(stream, tensor_of(one), tensor_of(many)), std::invalid_argument);
  EXPECT_THROW(ranks->all_reduce(stream, tensor_of(whole)), std::invalid_argument);
}

TEST(Communicator, PlansWithoutTalking) {
  const auto ranks = all_ranks();
  Stream planning = Stream::planning(Device::cpu);
  std::vector<float> data{1};
  if (ranks->rank() == 0) {  // would wait for the others if it sent anything
    ranks->all_reduce(planning, tensor_of(data));
  }
  EXPECT_EQ(data[0], 1);
}

TEST(Communicator, GpusThatAreAbsentAreOneClearErrorOnEveryRank) {
  if (cuda_device_count() > 0) {
    GTEST_SKIP() << "this machine has GPUs";
  }
  try {
    make_communicator(mpi(), Device::cuda, testing::test_timeout_seconds);
    FAIL() << "communication over GPUs that are not there";
  } catch (const CommunicationError& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("0 usable GPUs"));
    EXPECT_THAT(error.what(), ::testing::HasSubstr("distributed.device=cpu"));
  }
}

TEST(SingleCommunicator, CopiesAndKeeps) {
  const auto single = make_single_communicator();
  Stream stream(Device::cpu);
  std::vector<float> input{1, 2, 3};
  std::vector<float> output(3);
  single->reduce_scatter(stream, tensor_of(input), tensor_of(output));
  EXPECT_EQ(output, input);
  output.assign(3, 0);
  single->all_gather(stream, tensor_of(input), tensor_of(output));
  EXPECT_EQ(output, input);
  single->all_reduce(stream, tensor_of(output));
  EXPECT_EQ(output, input);
  EXPECT_EQ(single->all_gather_text("x"), std::vector<std::string>{"x"});
}

}  // namespace
}  // namespace gsa
