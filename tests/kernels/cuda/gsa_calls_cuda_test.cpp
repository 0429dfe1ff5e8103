// What a call may ask of gated slot attention on CUDA: strided rows, states in place, gradients and
// kept things left out.
#include "tests/kernels/cuda/gsa_cuda_case.h"

namespace gsa::test {
namespace {

using GsaCudaCalls = GsaCudaTest;

TEST_F(GsaCudaCalls, RowsMayLieApart) {
  constexpr int64_t padding = 24;
  const GsaProblem problem = random_problem({{70, 65}, 4, 2, 48, 64, 32, true}, 11);
  for (const Form form : {Form::chunked, Form::recurrent}) {
    expect_as_defined(problem, DType::bfloat16, {.form = form, .padding = padding});
  }
}

TEST_F(GsaCudaCalls, WithoutKeptStatesGivesTheSameBits) {
  expect_same_bits_without_kept(random_problem({{170, 40}, 4, 2, 64, 128, 64, false}, 12));
}

TEST_F(GsaCudaCalls, FinalStatesMayReplaceTheInitialOnes) {
  const GsaProblem problem =
      rounded(random_problem({{70, 0, 1}, 4, 2, 64, 48, 32, true}, 13), DType::bfloat16);
  for (const Form form : {Form::chunked, Form::recurrent}) {
    const CudaResults apart = run_on_cuda(problem, DType::bfloat16, {.form = form});
    const CudaResults in_place =
        run_on_cuda(problem, DType::bfloat16, {.form = form, .states_in_place = true});
    EXPECT_EQ(apart.outputs, in_place.outputs) << name_of(form);
  }
}

TEST_F(GsaCudaCalls, GradientsOfInitialStatesMayBeLeftOut) {
  const GsaProblem problem =
      rounded(random_problem({{70, 33}, 2, 2, 64, 64, 32, true}, 14), DType::bfloat16);
  for (const Form form : {Form::chunked, Form::recurrent}) {
    CudaResults all = run_on_cuda(problem, DType::bfloat16, {.form = form});
    const CudaResults some =
        run_on_cuda(problem, DType::bfloat16, {.form = form, .wants_state_gradients = false});
    all.gradients.erase("initial_key_state");
    all.gradients.erase("initial_value_state");
    EXPECT_EQ(all.gradients, some.gradients) << name_of(form);
  }
}

}  // namespace
}  // namespace gsa::test
