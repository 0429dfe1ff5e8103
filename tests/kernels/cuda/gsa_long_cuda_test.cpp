// Gated slot attention on CUDA over sequences so long that they are cut into segments.
#include "tests/kernels/cuda/gsa_cuda_case.h"

namespace gsa::test {
namespace {

using GsaCudaLong = GsaCudaTest;

// So few heads that the scan cuts sequences into segments: three of one sequence, a last one that
// is short, sequences of one segment and of none; a final state that goes through all of them.
TEST_F(GsaCudaLong, LongSequencesAreAsDefined) {
  expect_as_defined(random_problem({{1100}, 2, 1, 64, 64, 64, true}, 21), DType::bfloat16);
  expect_as_defined(random_problem({{1100}, 1, 1, 96, 32, 128, true}, 22), DType::bfloat16);
  const GsaShape packed{{600, 0, 90, 1500}, 2, 2, 48, 80, 32, true};
  expect_as_defined(random_problem(packed, 23), DType::bfloat16);
  expect_as_defined(random_projected_problem(packed, 24, projected_range), DType::bfloat16);
}

TEST_F(GsaCudaLong, LongSequencesWithoutKeptStatesGiveTheSameBits) {
  expect_same_bits_without_kept(random_problem({{1100}, 4, 2, 64, 128, 64, false}, 25));
}

}  // namespace
}  // namespace gsa::test
