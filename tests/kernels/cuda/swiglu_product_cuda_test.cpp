// SwiGLU together with the product in front of it or behind it, on CUDA against the CPU: tiles that
// are full and not, more tiles than multiprocessors, rows apart, and what tiles do not take.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/kernels/cuda/both_devices.h"

namespace gsa::kernels {
namespace {

using test::all_layouts;
using test::Bench;
using test::expect_as_on_cpu;
using test::Layout;

class CudaSwigluProduct : public testing::Test {
 protected:
  void SetUp() override { GSA_SKIP_WITHOUT_CUDA() }
};

struct Size {
  int64_t tokens, hidden, intermediate;
};

// Odd widths are not for tiles.
const Size sizes[] = {{1, 8, 8},      {19, 45, 33},    {64, 64, 128},
                      {130, 136, 72}, {300, 200, 320}, {257, 512, 1288}};
// More tiles than there are multiprocessors, and tokens that end within one.
const Size large{5000, 96, 2520};

std::string text(const char* name, const Size& size, const Layout& layout) {
  return std::string(name) + " " + std::to_string(size.tokens) + " tokens, " +
         std::to_string(size.hidden) + " to " + std::to_string(size.intermediate) +
         (layout.padding != 0 ? ", rows apart by " + std::to_string(layout.padding) : "");
}

double scale_of(int64_t depth) {
  return 4 / std::sqrt(double(depth));
}

void each_case(const char* name, void (*run)(Bench&, const Size&, const Layout&)) {
  const auto expect = [&](const Size& size, const Layout& layout) {
    expect_as_on_cpu(text(name, size, layout), [&](Bench& bench) { run(bench, size, layout); });
  };
  for (const Size& size : sizes) {
    for (const Layout& layout : all_layouts) {
      expect(size, layout);
    }
  }
  expect(large, {});
}

void run_forward(Bench& bench, const Size& size, const Layout& layout) {
  const double scale = scale_of(size.hidden);
  const Tensor input = bench.random({size.tokens, size.hidden}, -1, 1, layout);
  const Tensor weight = bench.random({2 * size.intermediate, size.hidden}, -scale, scale, layout);
  const Tensor gate_up = bench.output({size.tokens, 2 * size.intermediate}, layout);
  const Tensor output = bench.output({size.tokens, size.intermediate}, layout);
  swiglu_product_forward(bench.stream(),
                         {.input = input, .weight = weight, .gate_up = gate_up, .output = output});
  bench.keep("gate_up", gate_up);
  bench.keep("output", output);
}

TEST_F(CudaSwigluProduct, ForwardIsAsOnTheCpu) {
  each_case("swiglu_product_forward", run_forward);
}

TEST_F(CudaSwigluProduct, WithoutOutputLeavesTheSameBits) {
  for (const Size& size : sizes) {
    Bench bench(Device::cuda, DType::bfloat16, true);
    const Tensor input = bench.random({size.tokens, size.hidden});
    const Tensor weight = bench.random({2 * size.intermediate, size.hidden}, -0.1, 0.1);
    SwigluProductForward args{.input = input,
                              .weight = weight,
                              .gate_up = bench.output({size.tokens, 2 * size.intermediate}),
                              .output = bench.output({size.tokens, size.intermediate})};
    swiglu_product_forward(bench.stream(), args);
    bench.keep("with output", args.gate_up);
    args.gate_up = bench.output({size.tokens, 2 * size.intermediate});
    args.output = {};
    swiglu_product_forward(bench.stream(), args);
    bench.keep("without", args.gate_up);
    EXPECT_EQ(bench.results()[0].bits, bench.results()[1].bits) << text("", size, {});
  }
}

void run_backward(Bench& bench, const Size& size, const Layout& layout) {
  const double scale = scale_of(size.hidden);
  const Tensor grad_product = bench.random({size.tokens, size.hidden}, -1, 1, layout);
  const Tensor weight = bench.random({size.hidden, size.intermediate}, -scale, scale, layout);
  const Tensor gate_up = bench.random({size.tokens, 2 * size.intermediate}, -6, 6, layout);
  const Tensor output = bench.output({size.tokens, size.intermediate}, layout);
  const Tensor grad_gate_up = bench.output({size.tokens, 2 * size.intermediate}, layout);
  SwigluProductBackward args{.grad_product = grad_product,
                             .weight = weight,
                             .gate_up = gate_up,
                             .output = output,
                             .grad_gate_up = grad_gate_up};
  swiglu_product_backward(bench.stream(), args);
  bench.keep("output", output);
  bench.keep("grad_gate_up", grad_gate_up);
  args.grad_gate_up = gate_up;
  swiglu_product_backward(bench.stream(), args);
  bench.keep("grad_gate_up over gate_up", gate_up);
}

TEST_F(CudaSwigluProduct, BackwardIsAsOnTheCpu) {
  each_case("swiglu_product_backward", run_backward);
}

}  // namespace
}  // namespace gsa::kernels
