// What the dispatcher does around every operation: checks, workspace, observer, planning.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/operations.h"
#include "tests/support/host_tensor.h"
#include "tests/support/scratch.h"

namespace gsa::kernels {
namespace {

using test::HostTensor;

// Writes down what it is told.
class Recorder : public OperationObserver {
 public:
  void product(const Matmul& /*product*/) override { ++products; }
  void before(const char* phase) override { events.push_back(std::string("before ") + phase); }
  void after(const char* phase, double operation_flops) override {
    events.push_back(std::string("after ") + phase);
    flops += operation_flops;
  }
  std::vector<std::string> events;
  int products = 0;  // of the library
  double flops = 0;
};

class Dispatch : public testing::Test {
 protected:
  Matmul product() const { return {.a = a_, .b = b_, .c = c_}; }
  RmsNormBackward norm_backward() const {
    return {.input = a_,
            .weight = weight_,
            .inverse_rms = r_,
            .grad_output = a_,
            .grad_input = grad_,
            .grad_weight = grad_weight_};
  }

  HostTensor a_{DType::float32, {2, 3}, {1, 2, 3, 4, 5, 6}};
  HostTensor b_{DType::float32, {3, 2}, {1, 0, 0, 1, 1, 1}};
  HostTensor c_{DType::float32, {2, 2}, {-1, -1, -1, -1}};
  HostTensor weight_{DType::float32, {3}, {1, 1, 1}};
  HostTensor r_{DType::float32, {2}, {1, 1}};
  HostTensor grad_{DType::float32, {2, 3}, {0, 0, 0, 0, 0, 0}};
  HostTensor grad_weight_{DType::float32, {3}, {0, 0, 0}};
  test::TestScratch scratch_;
  Recorder recorder_;
};

TEST_F(Dispatch, RunsBetweenTheObserversCallsAndCountsFlops) {
  Stream stream(Device::cpu);
  stream.set_observer(&recorder_);
  matmul(stream, product());
  EXPECT_EQ(c_.values(), (std::vector<double>{4, 5, 10, 11}));
  swish_forward(stream, {.input = a_, .output = grad_});
  EXPECT_EQ(recorder_.events, (std::vector<std::string>{"before products", "after products",
                                                        "before gsa", "after gsa"}));
  EXPECT_EQ(recorder_.flops, product().flops());  // element-wise operations count none
}

TEST_F(Dispatch, LendsTheWorkspaceAndTakesItBack) {
  Stream stream(Device::cpu);
  stream.set_scratch(&scratch_);
  rms_norm_backward(stream, norm_backward());
  EXPECT_GT(scratch_.largest_loan(), 0U);
  EXPECT_EQ(scratch_.lent(), 0U);
}

TEST_F(Dispatch, NeedsScratchMemoryForAWorkspaceOnly) {
  Stream stream(Device::cpu);
  EXPECT_NO_THROW(matmul(stream, product()));
  EXPECT_THROW(rms_norm_backward(stream, norm_backward()), std::logic_error);
}

TEST_F(Dispatch, TakesTheWorkspaceBackAfterAnError) {
  Stream stream(Device::cpu);
  stream.set_scratch(&scratch_);
  const HostTensor half(DType::bfloat16, {2, 3});
  const HostTensor half_weight(DType::bfloat16, {3});
  RmsNormBackward args = norm_backward();
  args.input = args.grad_output = half;
  args.grad_input = half;
  args.weight = half_weight;
  EXPECT_THROW(rms_norm_backward(stream, args), std::invalid_argument);
  EXPECT_EQ(scratch_.lent(), 0U);
}

TEST_F(Dispatch, ChecksArgumentsBeforeAnythingElse) {
  Stream stream(Device::cpu);
  stream.set_observer(&recorder_);
  Matmul wrong = product();
  wrong.b = a_;
  EXPECT_THROW(matmul(stream, wrong), std::invalid_argument);
  EXPECT_TRUE(recorder_.events.empty());
}

TEST_F(Dispatch, PlanningCountsAndRunsNothing) {
  Stream stream = Stream::planning(Device::cpu);
  stream.set_scratch(&scratch_);
  stream.set_observer(&recorder_);
  matmul(stream, product());
  rms_norm_backward(stream, norm_backward());
  EXPECT_EQ(c_.values(), (std::vector<double>{-1, -1, -1, -1}));
  EXPECT_EQ(grad_.values(), std::vector<double>(6));
  EXPECT_GT(scratch_.largest_loan(), 0U);  // the arena learns its size from the plan
  EXPECT_EQ(recorder_.events.size(), 4U);
  EXPECT_EQ(recorder_.flops, product().flops());
}

TEST_F(Dispatch, PlanningStillChecks) {
  Stream stream = Stream::planning(Device::cpu);
  Matmul wrong = product();
  wrong.b = a_;
  EXPECT_THROW(matmul(stream, wrong), std::invalid_argument);
}

TEST_F(Dispatch, PlansForCudaOnAnyMachine) {
  Stream stream = Stream::planning(Device::cuda);
  stream.set_scratch(&scratch_);
  stream.set_observer(&recorder_);
  EXPECT_NO_THROW(matmul(stream, product()));
  EXPECT_EQ(recorder_.flops, product().flops());
  EXPECT_EQ(c_.values(), (std::vector<double>{-1, -1, -1, -1}));
}

// The library's products are told, so that algorithms are chosen for them: of an operation that
// begins with a product too, but where a kernel of its own computes it.
TEST_F(Dispatch, TellsTheObserverOfTheLibrarysProducts) {
  Stream stream = Stream::planning(Device::cuda);
  stream.set_scratch(&scratch_);
  stream.set_observer(&recorder_);
  matmul(stream, product());
  EXPECT_EQ(recorder_.products, 1);
  const auto swiglu = [&](DType dtype, int64_t hidden, int64_t columns) {
    const HostTensor input(dtype, {2, hidden});
    const HostTensor weight(dtype, {2 * columns, hidden});
    const HostTensor gate_up(dtype, {2, 2 * columns});
    swiglu_product_forward(stream,
                           {.input = input, .weight = weight, .gate_up = gate_up, .output = {}});
    return recorder_.products;
  };
  EXPECT_EQ(swiglu(DType::bfloat16, 16, 8), 1);
  EXPECT_EQ(swiglu(DType::bfloat16, 16, 12), 2);
  EXPECT_EQ(swiglu(DType::bfloat16, 15, 8), 3);
  EXPECT_EQ(swiglu(DType::float32, 16, 8), 4);
  const auto backward = [&](DType dtype, int64_t hidden, int64_t columns) {
    const HostTensor grad_product(dtype, {2, hidden});
    const HostTensor weight(dtype, {hidden, columns});
    const HostTensor gate_up(dtype, {2, 2 * columns});
    const HostTensor output(dtype, {2, columns});
    swiglu_product_backward(stream, {.grad_product = grad_product,
                                     .weight = weight,
                                     .gate_up = gate_up,
                                     .output = output,
                                     .grad_gate_up = gate_up});
    return recorder_.products;
  };
  EXPECT_EQ(backward(DType::bfloat16, 16, 8), 4);
  EXPECT_EQ(backward(DType::bfloat16, 16, 12), 5);
  EXPECT_EQ(backward(DType::bfloat16, 15, 8), 6);
  EXPECT_EQ(backward(DType::float32, 16, 8), 7);
}

}  // namespace
}  // namespace gsa::kernels
