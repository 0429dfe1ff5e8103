// The gradients of gated slot attention are those of the forward pass, in double precision.
#include <gtest/gtest.h>

#include "tests/kernels/gsa_case.h"

namespace gsa::test {
namespace {

// The loss is measured with the form under test, its gradients are those that its backward says.
void expect_central_differences(Form form, const GsaProblem& problem) {
  SCOPED_TRACE(name_of(form));
  GsaCase test_case(problem, DType::float64);
  test_case.forward(form);
  test_case.backward(form);
  for (const auto& [name, gradient] : test_case.gradients()) {
    const std::vector<double> expected = central_differences(test_case.tensor(name), [&] {
      test_case.forward(form);
      return test_case.loss();
    });
    EXPECT_LE(relative_error(gradient, expected), central_difference_tolerance) << name;
  }
}

// Gates that are shut enough for every input to count: a gradient far smaller than the loss would
// drown in the rounding of the differences.
double middling_gate(Random& random) {
  return random.uniform(-2, 0);
}

TEST(GsaGradients, MatchCentralDifferences) {
  // A tile and a half; grouped heads; sizes that fill no vector, and an empty sequence.
  const GsaShape shape{{19, 0, 5}, 2, 1, 5, 6, 4};
  for (Form form : all_forms) {
    expect_central_differences(form, random_problem(shape, 1, middling_gate));
  }
}

TEST(GsaGradients, MatchCentralDifferencesWithoutStates) {
  const GsaShape shape{{21}, 2, 1, 4, 5, 6, false};
  for (Form form : all_forms) {
    expect_central_differences(form, random_problem(shape, 2, middling_gate));
  }
}

TEST(GsaGradients, MatchCentralDifferencesAcrossChunks) {
  const GsaShape shape{{70}, 1, 1, 3, 4, 3};
  for (Form form : {Form::recurrent, Form::chunked}) {
    expect_central_differences(form, random_problem(shape, 3, middling_gate));
  }
}

TEST(GsaGradients, OfProjectionsMatchCentralDifferences) {
  const GsaShape shape{{19, 0, 5}, 2, 1, 5, 6, 4};
  for (Form form : all_forms) {
    expect_central_differences(form, random_projected_problem(shape, 4));
  }
}

}  // namespace
}  // namespace gsa::test
