// Gated slot attention on CUDA against the golden files.
#include <cstdio>

#include "tests/kernels/cuda/gsa_cuda_case.h"

namespace gsa::test {
namespace {

using GsaCudaGolden = GsaCudaTest;

Arrays golden_arrays(const GoldenFile& file, const std::string& group) {
  Arrays arrays;
  for (const std::string& name : file.names(group)) {
    arrays[name] = file.read(group + "/" + name).values;
  }
  return arrays;
}

void expect_golden_in_float(Form form) {
  for (const auto& path : golden_files("gsa_op_")) {
    SCOPED_TRACE(path.string());
    const GoldenFile file(path);
    const GsaProblem problem = golden_problem(file);
    const CudaResults results = run_on_cuda(problem, DType::float32, {.form = form});
    std::string line = name_of(form);
    line += " " + path.filename().string() + ":";
    expect_close(results.outputs, golden_arrays(file, "outputs"), float_forward_tolerance, line);
    expect_close(results.gradients, golden_arrays(file, "grads"), float_backward_tolerance, line);
    std::printf("  %s\n", line.c_str());
  }
}

TEST_F(GsaCudaGolden, ChunkedInFloatMeetsTheGoldenValues) {
  expect_golden_in_float(Form::chunked);
}

TEST_F(GsaCudaGolden, RecurrentInFloatMeetsTheGoldenValues) {
  expect_golden_in_float(Form::recurrent);
}

TEST_F(GsaCudaGolden, InBfloat16IsAsDefinedOnTheGoldenInputs) {
  for (const auto& path : golden_files("gsa_op_")) {
    SCOPED_TRACE(path.string());
    const GoldenFile file(path);
    for (const Form form : {Form::chunked, Form::recurrent}) {
      expect_as_defined(golden_problem(file), DType::bfloat16, {.form = form});
    }
  }
}

}  // namespace
}  // namespace gsa::test
