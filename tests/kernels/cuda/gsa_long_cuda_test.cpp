// Gated slot attention on CUDA over sequences so long that they are cut into segments, and so many
// that blocks share them out.
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

// Two thirds of a second round of blocks: the walks back are shared out among teams, which take
// over from each other in the middle of sequences. Sequences of none to six chunks, and one that a
// team has for itself.
std::vector<int32_t> many_lengths(size_t count) {
  std::vector<int32_t> lengths;
  for (size_t i = 0; i < count; ++i) {
    lengths.push_back(static_cast<int32_t>(i * 97 % 331));
  }
  return lengths;
}

TEST_F(GsaCudaLong, ManySequencesAreAsDefined) {
  expect_as_defined(random_problem({many_lengths(45), 2, 2, 64, 64, 64, false}, 26),
                    DType::bfloat16);
  expect_as_defined(random_problem({many_lengths(40), 4, 2, 48, 80, 128, false}, 27),
                    DType::bfloat16);
  const GsaShape wide{many_lengths(36), 2, 2, 192, 160, 64, false};
  expect_as_defined(random_problem(wide, 28), DType::bfloat16);
  expect_as_defined(random_projected_problem(wide, 29, projected_range), DType::bfloat16);
}

}  // namespace
}  // namespace gsa::test
