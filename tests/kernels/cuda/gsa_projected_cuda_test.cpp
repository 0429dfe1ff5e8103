// Gated slot attention on CUDA with projections as inputs, against the definition.
#include "tests/kernels/cuda/gsa_cuda_case.h"

namespace gsa::test {
namespace {

using GsaCudaProjected = GsaCudaTest;
using GsaCudaProjectedShape = GsaCudaShapeTest;

TEST_P(GsaCudaProjectedShape, IsAsDefined) {
  const GsaProblem problem = random_projected_problem(shape(), seed(201), projected_range);
  expect_as_defined(problem, DType::bfloat16);
  expect_as_defined(problem, DType::bfloat16, {.form = Form::recurrent});
  expect_as_defined(problem, DType::float32);
}
INSTANTIATE_TEST_SUITE_P(Each, GsaCudaProjectedShape, all_gsa_shapes());

TEST_F(GsaCudaProjected, ProjectedIsAsDefinedWithSteepSlots) {
  for (const int64_t every : {1, 3, 16}) {
    GsaProblem problem =
        random_projected_problem({{150, 64}, 4, 2, 64, 96, 112, true}, 15, projected_range);
    Random random(16);
    std::vector<double>& logits = problem.inputs.at("gate_logits");
    for (size_t i = 0; i < logits.size(); ++i) {
      if (static_cast<int64_t>(i) % problem.shape.slots % every == 0) {
        logits[i] = random.uniform(-30, 0);
      }
    }
    expect_as_defined(problem, DType::bfloat16);
  }
}

TEST_F(GsaCudaProjected, ProjectedRowsMayLieApart) {
  constexpr int64_t padding = 24;
  expect_as_defined(
      random_projected_problem({{70, 65}, 4, 2, 48, 64, 32, true}, 17, projected_range),
      DType::bfloat16, {.padding = padding});
}

TEST_F(GsaCudaProjected, ProjectedWithoutKeptStatesGivesTheSameBits) {
  expect_same_bits_without_kept(
      random_projected_problem({{170, 40}, 4, 2, 64, 128, 64, false}, 18, projected_range));
}

}  // namespace
}  // namespace gsa::test
