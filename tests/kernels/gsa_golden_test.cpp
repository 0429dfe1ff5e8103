// All forms of gated slot attention against every golden file.
#include <gtest/gtest.h>

#include "tests/kernels/gsa_case.h"

namespace gsa::test {
namespace {

// The accuracy that the golden values are to be met with, as relative norms. Float: rounding of
// inputs and of sums over K, V and the tokens; gradients go through both passes twice.
constexpr double double_golden_tolerance = 1e-9;
constexpr double float_forward_tolerance = 1e-5;
constexpr double float_backward_tolerance = 1e-4;

void expect_close(const Arrays& results, const GoldenFile& file, const std::string& group,
                  double tolerance) {
  for (const std::string& name : file.names(group)) {
    ASSERT_TRUE(results.contains(name)) << name;
    const double error = relative_error(results.at(name), file.read(group + "/" + name).values);
    EXPECT_LE(error, tolerance) << group << "/" << name;
  }
}

void expect_golden(Form form, DType dtype, double forward_tolerance, double backward_tolerance) {
  for (const auto& path : golden_files("gsa_op_")) {
    SCOPED_TRACE(path.string());
    const GoldenFile file(path);
    GsaCase test_case(golden_problem(file), dtype);
    test_case.forward(form);
    expect_close(test_case.outputs(), file, "outputs", forward_tolerance);
    test_case.backward(form);
    expect_close(test_case.gradients(), file, "grads", backward_tolerance);
  }
}

void expect_double(Form form) {
  expect_golden(form, DType::float64, double_golden_tolerance, double_golden_tolerance);
}
void expect_float(Form form) {
  expect_golden(form, DType::float32, float_forward_tolerance, float_backward_tolerance);
}

TEST(GsaGolden, DefinitionInDouble) {
  expect_double(Form::definition);
}
TEST(GsaGolden, DefinitionInFloat) {
  expect_float(Form::definition);
}
TEST(GsaGolden, RecurrentInDouble) {
  expect_double(Form::recurrent);
}
TEST(GsaGolden, RecurrentInFloat) {
  expect_float(Form::recurrent);
}
TEST(GsaGolden, ChunkedInDouble) {
  expect_double(Form::chunked);
}
TEST(GsaGolden, ChunkedInFloat) {
  expect_float(Form::chunked);
}

}  // namespace
}  // namespace gsa::test
