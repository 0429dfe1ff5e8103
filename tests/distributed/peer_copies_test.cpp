// Collectives as copies between the memories of GPUs. Ranks may share a GPU here: the test runs
// with any number of ranks on any machine with a GPU, and is skipped elsewhere.
#include "trainer/distributed/peer_copies.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/distributed/mpi_test.h"
#include "trainer/distributed/open_memory.h"

namespace gsa {
namespace {

using testing::contribution;
using testing::host_tensor;
using testing::sum_of_contributions;
using testing::test_timeout_seconds;

// Gradients and weights of one bucket on every rank, open to the others.
class Bucket {
 public:
  Bucket(MpiGroup& group, PeerCopies& copies, int64_t part)
      : group_(group),
        copies_(copies),
        part_(part),
        weight_memory_(Device::cuda, bytes()),
        gradient_memory_(Device::cuda, bytes()),
        arriving_memory_(
            Device::cuda,
            OpenMemory::arriving_bytes(static_cast<size_t>(part) * sizeof(float), group.size())) {
    copies.open(group, weights(),
                arriving_memory_.tensor(DType::byte, {int64_t(arriving_memory_.bytes())}));
  }
  ~Bucket() { copies_.close(group_); }
  Bucket(const Bucket&) = delete;
  Bucket& operator=(const Bucket&) = delete;

  int64_t count() const { return part_ * group_.size(); }
  Tensor weights() const { return weight_memory_.tensor(DType::float32, {count()}); }
  Tensor gradients() const { return gradient_memory_.tensor(DType::float32, {count()}); }
  Tensor own(const Tensor& tensor) const {
    return tensor.rows(group_.rank() * part_, (group_.rank() + 1) * part_);
  }

 private:
  size_t bytes() const { return static_cast<size_t>(count()) * sizeof(float); }
  MpiGroup& group_;
  PeerCopies& copies_;
  int64_t part_;
  Buffer weight_memory_;
  Buffer gradient_memory_;
  Buffer arriving_memory_;
};

class PeerCopiesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) {
      GTEST_SKIP() << "needs a GPU";
    }
    use_device(Device::cuda, PeerCopies::device_of(group_.rank()));
    copies_ = PeerCopies::connect(group_, why_);
    if (testing::gpus_are_apart(why_)) {
      GTEST_SKIP() << why_;
    }
    ASSERT_TRUE(copies_) << why_;
  }

  MpiGroup group_{test_timeout_seconds};
  std::string why_;
  std::unique_ptr<PeerCopies> copies_;
};

TEST_F(PeerCopiesTest, SumsInTheOrderOfRanksAndGathers) {
  Stream first(Device::cuda);
  Stream second(Device::cuda);
  for (const int64_t part : {int64_t{1}, int64_t{1003}, int64_t{262'148}, int64_t{3'000'000}}) {
    const Bucket bucket(group_, *copies_, part);
    ASSERT_TRUE(copies_->can_gather(bucket.weights()));
    ASSERT_TRUE(copies_->can_reduce(bucket.own(bucket.gradients())));
    ASSERT_FALSE(copies_->can_gather(bucket.gradients()));  // not open
    // Again and again, in turns on two streams, of which each waits for the one before.
    for (int round = 0; round < 6; ++round) {
      const std::vector<float> expected =
          sum_of_contributions(group_.size(), bucket.count(), round);
      std::vector<float> values = contribution(group_.rank(), bucket.count(), round);
      std::vector<float> output(expected.size());
      Stream& stream = round % 2 == 0 ? first : second;
      copy(stream, host_tensor(values), bucket.gradients());
      fill_zero(stream, bucket.weights());
      copies_->reduce_scatter(stream, bucket.gradients(), bucket.own(bucket.gradients()));
      // From elsewhere, and in place.
      copies_->all_gather(stream, bucket.own(bucket.gradients()), bucket.weights());
      if (round % 3 == 0) {
        copies_->all_gather(stream, bucket.own(bucket.weights()), bucket.weights());
      }
      copy(stream, bucket.weights(), host_tensor(output));
      stream.synchronize();
      ASSERT_EQ(output, expected) << "round " << round << " of " << part;
    }
  }
}

// Many collectives queued at once, as a step does, of parts of what is open.
TEST_F(PeerCopiesTest, QueuedCollectivesKeepTheirOrder) {
  constexpr int pieces = 25;
  constexpr int rounds = 4;
  constexpr int64_t part = 20'000;
  Stream stream(Device::cuda);
  const Bucket all(group_, *copies_, part * pieces);
  std::vector<float> mine = contribution(group_.rank(), all.count());
  copy(stream, host_tensor(mine), all.gradients());
  const auto piece = [&](const Tensor& tensor, int i) {
    return tensor.rows(i * part * group_.size(), (i + 1) * part * group_.size());
  };
  const auto own = [&](const Tensor& tensor) {
    return tensor.rows(group_.rank() * part, (group_.rank() + 1) * part);
  };
  for (int round = 0; round < rounds; ++round) {
    for (int i = pieces; i-- > 0;) {
      const Tensor gradients = piece(all.gradients(), i);
      copies_->reduce_scatter(stream, gradients, own(gradients));
    }
    for (int i = 0; i < pieces; ++i) {
      copies_->all_gather(stream, own(piece(all.gradients(), i)), piece(all.weights(), i));
      // What every rank has now is what the next round sums.
      copy(stream, piece(all.weights(), i), piece(all.gradients(), i));
    }
  }
  std::vector<float> output(mine.size());
  copy(stream, all.weights(), host_tensor(output));
  stream.synchronize();
  std::vector<float> expected = sum_of_contributions(group_.size(), all.count());
  for (int round = 1; round < rounds; ++round) {
    for (float& value : expected) {
      const float once = value;
      for (int rank = 1; rank < group_.size(); ++rank) {
        value += once;
      }
    }
  }
  ASSERT_EQ(output, expected);
}

// A rank that does not come holds the others' GPUs only until they stop waiting.
TEST_F(PeerCopiesTest, AStreamThatWaitsForNobodyGoesOn) {
  if (group_.size() == 1) {
    GTEST_SKIP() << "one rank waits for nobody";
  }
  const Bucket bucket(group_, *copies_, 1000);
  if (group_.rank() > 0) {
    Stream stream(Device::cuda);
    Event done(Device::cuda);
    for (int i = 0; i < 5; ++i) {
      copies_->all_gather(stream, bucket.own(bucket.weights()), bucket.weights());
      copies_->reduce_scatter(stream, bucket.gradients(), bucket.own(bucket.gradients()));
    }
    done.record(stream);
    copies_->stop_waiting();
    done.synchronize();
  }
  group_.barrier();
}

}  // namespace
}  // namespace gsa
