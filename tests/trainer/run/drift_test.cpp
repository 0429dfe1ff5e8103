// Weights that are no longer the same on all ranks, in a run: a link that changes a bit on its way.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/trainer/run/program.h"

namespace gsa::test {
namespace {

using testing::HasSubstr;

constexpr int failed = 4;

class Drift : public testing::Test {
 protected:
  Outcome train_over_a_faulty_link(const std::string& more) const {
    // The sanitizers' library wants to be the first one loaded, and does without.
    return place_.shell(fmt::format(
        "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; "
        "export ASAN_OPTIONS=\"$ASAN_OPTIONS:verify_asan_link_order=0\"; "
        "mpirun --oversubscribe --bind-to none -n 3 -x LD_PRELOAD='{}' \"$GSA_BINARY\" train "
        "tiny.yaml run.name=drifting train.micro_batch=1 train.batch_tokens=192 train.tokens=9600 "
        "{}",
        GSA_FAULTY_LINK, more));
  }

  Workplace place_;
};

TEST_F(Drift, ARankThatGetsOtherWeightsIsNamed) {
  const Outcome outcome = train_over_a_faulty_link("distributed.check_weights_every=5");
  EXPECT_EQ(outcome.exit_code, failed) << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr("the weights of rank 1 are not those of the other ranks"));
  EXPECT_THAT(outcome.output, HasSubstr("--resume auto"));
}

TEST_F(Drift, GoesUnnoticedWithoutTheCheck) {  // so the test above sees what it is for
  const Outcome outcome = train_over_a_faulty_link("distributed.check_weights_every=0");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
}

}  // namespace
}  // namespace gsa::test
