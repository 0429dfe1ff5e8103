// Gated slot attention on CUDA, one problem at a time, against its definition in float64 on the CPU
// from the same rounded inputs: what the tests of it are made of.
#pragma once

#include <gtest/gtest.h>

#include <iterator>
#include <string>

#include "tests/kernels/gsa_case.h"

namespace gsa::test {

// What is asked of float32 against the golden values, as relative norms.
inline constexpr double float_forward_tolerance = 1e-5;
inline constexpr double float_backward_tolerance = 1e-4;
// bfloat16 keeps 8 bits, and its products are summed in float32.
inline constexpr double bfloat16_tolerance = 2e-2;

// Sequences of any lengths, none among them; dimensions and slots that fill tiles and that do not.
inline const GsaShape gsa_shapes[] = {
    {{1}, 1, 1, 32, 32, 16, true},
    {{64}, 1, 1, 64, 64, 64, false},
    {{63, 0, 65, 1}, 2, 2, 48, 80, 32, true},
    {{200}, 4, 4, 128, 128, 64, false},
    {{130, 70}, 4, 2, 64, 96, 64, false},
    {{129, 0, 3}, 6, 2, 96, 64, 48, true},
    {{100, 28}, 4, 1, 128, 128, 64, true},
    {{150}, 2, 1, 64, 64, 128, true},
    {{70, 130}, 1, 1, 80, 32, 112, false},
    {{192}, 1, 1, 512, 512, 64, false},
    {{90}, 1, 1, 640, 640, 128, true},
};

// With larger inputs the scores over 512 dimensions are so large that rounding swish of them to
// bfloat16, whatever computes it, costs the gradients 3e-2.
inline constexpr double projected_range = 1;

struct CudaOptions {
  Form form = Form::chunked;
  int64_t padding = 0;
  bool keeps = true;             // memory for what the forward pass may keep
  bool states_in_place = false;  // final states over the initial ones
  bool wants_state_gradients = true;
};

struct CudaResults {
  Arrays outputs;
  Arrays gradients;
  bool gaps_are_untouched = true;
};

// The problem as the device sees it.
GsaProblem rounded(GsaProblem problem, DType dtype);

// Runs forward and backward on the device, in scratch memory that shows what was not written.
CudaResults run_on_cuda(const GsaProblem& problem, DType dtype, const CudaOptions& options = {});

// Expects each result within the tolerance of what is expected under its name, and adds the errors
// to the line.
void expect_close(const Arrays& results, const Arrays& expected, double tolerance,
                  std::string& line);

// Expects of CUDA what the definition gives in float64 from the same inputs, and the same bits when
// it runs again.
void expect_as_defined(const GsaProblem& problem, DType dtype, const CudaOptions& options = {});

// Expects the same bits where the forward pass may keep nothing for the backward pass.
void expect_same_bits_without_kept(const GsaProblem& problem);

// Skips where there is no GPU. The files of tests name their suites after what they hold.
class GsaCudaTest : public testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) {
      GTEST_SKIP() << "no CUDA device on this machine: nothing to run";
    }
  }
};

// Tests of every shape, each of which is a test by itself.
class GsaCudaShapeTest : public GsaCudaTest, public testing::WithParamInterface<size_t> {
 protected:
  static const GsaShape& shape() { return gsa_shapes[GetParam()]; }
  // A different one for each shape.
  static uint64_t seed(uint64_t first) { return first + GetParam(); }
};
inline auto all_gsa_shapes() {
  return testing::Range(size_t{0}, std::size(gsa_shapes));
}

}  // namespace gsa::test
