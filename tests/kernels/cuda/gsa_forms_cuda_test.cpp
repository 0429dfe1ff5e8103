// Both forms of gated slot attention on CUDA against the definition: shapes and gates of all kinds.
#include "tests/kernels/cuda/gsa_cuda_case.h"

namespace gsa::test {
namespace {

using GsaCudaForms = GsaCudaTest;
using GsaCudaFormsShape = GsaCudaShapeTest;

TEST_P(GsaCudaFormsShape, ChunkedIsAsDefined) {
  expect_as_defined(random_problem(shape(), seed(1)), DType::bfloat16);
}

TEST_P(GsaCudaFormsShape, RecurrentIsAsDefined) {
  expect_as_defined(random_problem(shape(), seed(101)), DType::bfloat16, {.form = Form::recurrent});
  expect_as_defined(random_problem(shape(), seed(151)), DType::float32, {.form = Form::recurrent});
}
INSTANTIATE_TEST_SUITE_P(Each, GsaCudaFormsShape, all_gsa_shapes());

// Sequences that are cut into segments backward, with dimensions that fill slices and that do not.
const GsaShape long_shapes[] = {
    {{1100, 0, 30, 500}, 2, 1, 64, 128, 64, true},
    {{1100}, 4, 2, 64, 32, 48, false},
    {{420}, 2, 2, 320, 192, 64, true},
    {{700}, 1, 1, 128, 80, 128, true},
};

TEST_F(GsaCudaForms, ChunkedIsAsDefinedInSegments) {
  uint64_t seed = 51;
  for (const GsaShape& shape : long_shapes) {
    expect_as_defined(random_problem(shape, seed++), DType::bfloat16);
  }
}

// One slot in `every` fades steeply, some by more than a float's range within a chunk.
GsaProblem with_steep_slots(const GsaShape& shape, uint64_t seed, int64_t every) {
  GsaProblem problem = random_problem(shape, seed);
  Random random(seed + 1);
  std::vector<double>& log_alpha = problem.inputs.at("log_alpha");
  for (size_t i = 0; i < log_alpha.size(); ++i) {
    if (static_cast<int64_t>(i) % shape.slots % every == 0) {
      log_alpha[i] = random.uniform(-15, 0);
    }
  }
  return problem;
}

TEST_F(GsaCudaForms, ChunkedIsAsDefinedWithSteepSlots) {
  for (const int64_t every : {1, 3, 16}) {
    expect_as_defined(with_steep_slots({{150, 64}, 2, 2, 64, 64, 64, true}, 7, every),
                      DType::bfloat16);
    expect_as_defined(with_steep_slots({{140}, 4, 2, 96, 48, 112, true}, 8, every),
                      DType::bfloat16);
  }
}

TEST_F(GsaCudaForms, ChunkedIsAsDefinedWithHarshGates) {
  expect_as_defined(random_problem({{150, 64}, 2, 1, 64, 64, 64, true}, 9, harsh_gate),
                    DType::bfloat16);
}

TEST_F(GsaCudaForms, FloatIsAsDefinedWithHarshGates) {
  expect_as_defined(random_problem({{150, 64}, 2, 1, 64, 64, 64, true}, 9, harsh_gate),
                    DType::float32);
}

}  // namespace
}  // namespace gsa::test
