// Every operation of the layers on CUDA against the CPU: dtypes, odd sizes, strided rows, aliases.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/kernels/cuda/both_devices.h"

namespace gsa::kernels {
namespace {

using test::all_layouts;
using test::Bench;
using test::expect_as_on_cpu;
using test::Layout;

std::string text(const char* name, Shape shape, Layout layout = {}) {
  std::string text = name;
  text += ' ';
  text += shape.text();
  if (layout.padding != 0) {
    text += " rows ";
    text += std::to_string(shape[1] + layout.padding + layout.offset);
    text += " apart";
  }
  return text;
}

class Cuda : public testing::Test {
 protected:
  void SetUp() override { GSA_SKIP_WITHOUT_CUDA() }
};
using CudaActivation = Cuda;
using CudaNorm = Cuda;
using CudaEmbedding = Cuda;
using CudaLoss = Cuda;
using CudaMatmul = Cuda;

const Shape element_shapes[] = {{1, 1}, {19, 45}, {64, 256}, {33, 1288}};

TEST_F(CudaActivation, SwishIsAsOnTheCpu) {
  for (const Shape& shape : element_shapes) {
    for (const Layout& layout : all_layouts) {
      expect_as_on_cpu(text("swish", shape, layout), [&](Bench& bench) {
        const Tensor input = bench.random(shape, -12, 12, layout);
        const Tensor output = bench.output(shape, layout);
        swish_forward(bench.stream(), {.input = input, .output = output});
        bench.keep("output", output);
        const Tensor grad = bench.random(shape, -1, 1, layout);
        const Tensor grad_input = bench.output(shape, layout);
        swish_backward(bench.stream(),
                       {.input = input, .grad_output = grad, .grad_input = grad_input});
        bench.keep("grad_input", grad_input);
        swish_backward(bench.stream(), {.input = input, .grad_output = grad, .grad_input = grad});
        bench.keep("grad_input over grad_output", grad);
      });
    }
  }
}

TEST_F(CudaActivation, LogGateIsAsOnTheCpu) {
  constexpr double harsh = 90;  // far beyond where exp overflows or vanishes
  for (const Shape& shape : element_shapes) {
    for (const Layout& layout : all_layouts) {
      expect_as_on_cpu(text("log_gate", shape, layout), [&](Bench& bench) {
        const Tensor input = bench.random(shape, -harsh, harsh, layout);
        const Tensor log_alpha = bench.output(DType::float32, shape, layout);
        log_gate_forward(bench.stream(), {.input = input, .log_alpha = log_alpha});
        bench.keep("log_alpha", log_alpha);
        const Tensor grad = bench.random_float(shape, -1, 1, layout);
        const Tensor grad_input = bench.output(shape, layout);
        log_gate_backward(bench.stream(),
                          {.input = input, .grad_log_alpha = grad, .grad_input = grad_input});
        bench.keep("grad_input", grad_input);
      });
    }
  }
}

TEST_F(CudaActivation, SwigluIsAsOnTheCpu) {
  for (const Shape& shape : element_shapes) {
    const Shape wide{shape[0], 2 * shape[1]};
    for (const Layout& layout : all_layouts) {
      expect_as_on_cpu(text("swiglu", shape, layout), [&](Bench& bench) {
        const Tensor gate_up = bench.random(wide, -8, 8, layout);
        const Tensor output = bench.output(shape, layout);
        swiglu_forward(bench.stream(), {.gate_up = gate_up, .output = output});
        bench.keep("output", output);
        const Tensor grad = bench.random(shape, -1, 1, layout);
        const Tensor grad_gate_up = bench.output(wide, layout);
        swiglu_backward(
            bench.stream(),
            {.gate_up = gate_up, .grad_output = grad, .output = {}, .grad_gate_up = grad_gate_up});
        bench.keep("grad_gate_up", grad_gate_up);
        swiglu_backward(
            bench.stream(),
            {.gate_up = gate_up, .grad_output = grad, .output = grad, .grad_gate_up = gate_up});
        bench.keep("grad_gate_up over gate_up", gate_up);
        bench.keep("output over grad_output", grad);
      });
    }
  }
}

TEST_F(CudaActivation, RefusesFloat64) {
  Bench bench(Device::cuda, DType::float64, false);
  const Tensor tensor = bench.random({2, 3});
  EXPECT_THROW(swish_forward(bench.stream(), {.input = tensor, .output = tensor}),
               std::invalid_argument);
}

// Rows enough for every block to have several, all ways that a row lies in threads.
const Shape norm_shapes[] = {{3, 8}, {37, 33}, {2500, 64}, {1100, 2048}, {300, 4104}, {140, 8192}};

TEST_F(CudaNorm, RmsNormForwardIsAsOnTheCpu) {
  for (const Shape& shape : norm_shapes) {
    for (const Layout& layout : all_layouts) {
      expect_as_on_cpu(text("rms_norm_forward", shape, layout), [&](Bench& bench) {
        const Tensor input = bench.random(shape, -2, 2, layout);
        const Tensor weight = bench.random({shape[1]}, 0.5, 1.5);
        const Tensor output = bench.output(shape, layout);
        const Tensor inverse_rms = bench.output(DType::float32, {shape[0]});
        rms_norm_forward(
            bench.stream(),
            {.input = input, .weight = {}, .output = output, .inverse_rms = inverse_rms});
        bench.keep("output without weight", output);
        rms_norm_forward(
            bench.stream(),
            {.input = input, .weight = weight, .output = output, .inverse_rms = inverse_rms});
        bench.keep("output", output);
        bench.keep("inverse_rms", inverse_rms);
      });
    }
  }
}

TEST_F(CudaNorm, RmsNormBackwardIsAsOnTheCpu) {
  for (const Shape& shape : norm_shapes) {
    for (const Layout& layout : all_layouts) {
      expect_as_on_cpu(text("rms_norm_backward", shape, layout), [&](Bench& bench) {
        RmsNormBackward args{.input = bench.random(shape, -2, 2, layout),
                             .weight = {},
                             .inverse_rms = bench.random_float({shape[0]}, 0.5, 1.5),
                             .grad_output = bench.random(shape, -1, 1, layout),
                             .grad_residual = {},
                             .grad_input = bench.output(shape, layout),
                             .grad_weight = {}};
        rms_norm_backward(bench.stream(), args);
        bench.keep("grad_input without weight and residual", args.grad_input);
        const Tensor residual = bench.random(shape, -1, 1, layout);
        args.weight = bench.random({shape[1]}, 0.5, 1.5);
        args.grad_weight = bench.random_float({shape[1]});
        args.grad_residual = residual;
        args.grad_input = residual;
        rms_norm_backward(bench.stream(), args);
        bench.keep("grad_input over grad_residual", args.grad_input);
        bench.keep("grad_weight, accumulated", args.grad_weight);
        args.output = bench.output(shape, layout);
        rms_norm_backward(bench.stream(), args);
        bench.keep("output", args.output);
      });
    }
  }
}

TEST_F(CudaNorm, SwishRmsNormIsAsOnTheCpu) {
  for (const Shape& shape : norm_shapes) {
    for (const Layout& layout : all_layouts) {
      expect_as_on_cpu(text("swish_rms_norm", shape, layout), [&](Bench& bench) {
        const Tensor input = bench.random(shape, -4, 4, layout);
        const Tensor weight = bench.random({shape[1]}, 0.5, 1.5);
        const Tensor output = bench.output(shape, layout);
        const Tensor inverse_rms = bench.output(DType::float32, {shape[0]});
        swish_rms_norm_forward(
            bench.stream(),
            {.input = input, .weight = weight, .output = output, .inverse_rms = inverse_rms});
        bench.keep("output", output);
        bench.keep("inverse_rms", inverse_rms);
        const Tensor grad = bench.random(shape, -1, 1, layout);
        const Tensor grad_weight = bench.random_float({shape[1]});
        swish_rms_norm_backward(bench.stream(), {.input = input,
                                                 .weight = weight,
                                                 .inverse_rms = inverse_rms,
                                                 .grad_output = grad,
                                                 .grad_input = grad,
                                                 .grad_weight = grad_weight});
        bench.keep("grad_input over grad_output", grad);
        bench.keep("grad_weight, accumulated", grad_weight);
        const Tensor again = bench.random(shape, -1, 1, layout);
        swish_rms_norm_backward(bench.stream(), {.input = input,
                                                 .weight = weight,
                                                 .inverse_rms = inverse_rms,
                                                 .grad_output = again,
                                                 .output = again,
                                                 .grad_input = input,
                                                 .grad_weight = grad_weight});
        bench.keep("output over grad_output", again);
        bench.keep("grad_input over input", input);
      });
    }
  }
}

// `common`: how many of the tokens are one and the same, so that its sum crosses many tiles.
void check_embedding(int64_t count, int32_t vocabulary, int64_t columns, int64_t common,
                     Layout layout) {
  const std::string name = text("embedding", {count, columns}, layout) + " vocabulary " +
                           std::to_string(vocabulary) + ", " + std::to_string(common) + " equal";
  expect_as_on_cpu(name, [&](Bench& bench) {
    std::vector<int32_t> ids = bench.random_integers(count, vocabulary);
    for (int64_t i = 0; i < common; ++i) {
      ids[size_t(i * count / common)] = vocabulary / 2;
    }
    const Tensor tokens = bench.integers(ids);
    const Tensor table = bench.random({vocabulary, columns}, -1, 1, layout);
    const Tensor output = bench.output({count, columns}, layout);
    embedding_forward(bench.stream(), {.tokens = tokens, .table = table, .output = output});
    bench.keep("output", output);
    const Tensor grad = bench.random({count, columns}, -1, 1, layout);
    const Tensor grad_table = bench.random_float({vocabulary, columns}, -1, 1, layout);
    embedding_backward(bench.stream(),
                       {.tokens = tokens, .grad_output = grad, .grad_table = grad_table});
    bench.keep("grad_table, accumulated", grad_table);
  });
}

TEST_F(CudaEmbedding, IsAsOnTheCpu) {
  for (const Layout& layout : all_layouts) {
    check_embedding(1, 3, 1, 0, layout);
    check_embedding(1000, 50, 33, 0, layout);
    check_embedding(4096, 3000, 264, 0, layout);
    check_embedding(4096, 3000, 1032, 2000, layout);
    check_embedding(700, 256, 24, 700, layout);
  }
  check_embedding(20000, 32000, 64, 1000, {});
  check_embedding(20000, 65536, 16, 0, {});
}

TEST_F(CudaEmbedding, TokensOutsideTheVocabularyShowAndHarmNothing) {
  constexpr int32_t vocabulary = 5;
  constexpr int64_t columns = 16;
  Bench bench(Device::cuda, DType::float32, false);
  const Tensor tokens = bench.integers({1, -7, vocabulary, 1, 2'000'000'000, 9});
  const Tensor table = bench.random({vocabulary, columns});
  const Tensor output = bench.output({tokens.dim(0), columns});
  embedding_forward(bench.stream(), {.tokens = tokens, .table = table, .output = output});
  bench.keep("output", output);
  const std::vector<double>& rows = bench.results()[0].values;
  for (int64_t n = 0; n < tokens.dim(0); ++n) {
    EXPECT_EQ(std::isnan(rows[size_t(n * columns)]), n != 0 && n != 3) << "token " << n;
  }
  const std::vector<double> ones(size_t(tokens.dim(0) * columns), 1.0);
  const Tensor grad = bench.values(DType::float32, {tokens.dim(0), columns}, ones);
  const std::vector<double> zeros(size_t(vocabulary * columns), 0.0);
  const Tensor grad_table = bench.values(DType::float32, {vocabulary, columns}, zeros);
  embedding_backward(bench.stream(),
                     {.tokens = tokens, .grad_output = grad, .grad_table = grad_table});
  bench.keep("grad_table", grad_table);
  for (int64_t i = 0; i < grad_table.count(); ++i) {
    EXPECT_EQ(bench.results()[1].values[size_t(i)], i / columns == 1 ? 2 : 0) << "element " << i;
  }
}

void check_cross_entropy(int64_t rows, int64_t columns, double largest, Layout layout) {
  expect_as_on_cpu(text("cross_entropy", {rows, columns}, layout), [&](Bench& bench) {
    std::vector<int32_t> ids = bench.random_integers(rows, int32_t(columns));
    ids[size_t(rows / 2)] = ignored_label;
    const Tensor labels = bench.integers(ids);
    const Tensor logits = bench.random({rows, columns}, -largest, largest, layout);
    const Tensor losses = bench.output(DType::float32, {rows});
    cross_entropy(bench.stream(), {.labels = labels, .logits = logits, .losses = losses});
    bench.keep("losses", losses);
    bench.keep("logits, untouched", logits);
    constexpr double scale = 1.0 / 64;
    cross_entropy(bench.stream(),
                  {.labels = labels, .gradient_scale = scale, .logits = logits, .losses = losses});
    bench.keep("losses with gradient", losses);
    bench.keep("gradient", logits);
    const Tensor totals = bench.values(DType::float64, {2}, {10, 3});
    sum_losses(bench.stream(), {.losses = losses, .labels = labels, .totals = totals});
    bench.keep("totals, accumulated", totals);
  });
}

TEST_F(CudaLoss, CrossEntropyIsAsOnTheCpu) {
  for (const Layout& layout : all_layouts) {
    check_cross_entropy(5, 7, 3, layout);
    check_cross_entropy(300, 259, 8, layout);
    check_cross_entropy(40, 32000, 60, layout);
  }
  constexpr int64_t largest_vocabulary = 131072;
  check_cross_entropy(3, largest_vocabulary, 8, {});
}

TEST_F(CudaLoss, LabelsOutsideTheVocabularyGiveNoNumber) {
  Bench bench(Device::cuda, DType::bfloat16, false);
  const Tensor labels = bench.integers({0, -1, 8, 2'000'000'000, 7});
  const Tensor logits = bench.random({5, 8});
  const Tensor losses = bench.output(DType::float32, {5});
  cross_entropy(bench.stream(),
                {.labels = labels, .gradient_scale = 1, .logits = logits, .losses = losses});
  bench.keep("losses", losses);
  for (size_t n = 0; n < 5; ++n) {
    EXPECT_EQ(std::isnan(bench.results()[0].values[n]), n != 0 && n != 4) << "label " << n;
  }
}

TEST_F(CudaLoss, SumOfManyLossesIsAsOnTheCpu) {
  constexpr int64_t tokens = 70001;
  expect_as_on_cpu("sum_losses of 70001", [&](Bench& bench) {
    std::vector<int32_t> ids = bench.random_integers(tokens, 3);
    std::replace(ids.begin(), ids.end(), 2, ignored_label);
    const Tensor labels = bench.integers(ids);
    const Tensor losses = bench.random_float({tokens}, 0, 12);
    const Tensor totals = bench.values(DType::float64, {2}, {0, 0});
    sum_losses(bench.stream(), {.losses = losses, .labels = labels, .totals = totals});
    bench.keep("totals", totals);
  });
}

struct Product {
  int64_t m, n, k;
  Layout layout;
};

Tensor operand(Bench& bench, int64_t rows, int64_t columns, Transpose transpose, Layout layout) {
  return transpose == Transpose::yes ? bench.random({columns, rows}, -1, 1, layout)
                                     : bench.random({rows, columns}, -1, 1, layout);
}

// All four layouts of operands, written and accumulated; the result of dtype() and of float32.
void check_product(const Product& p) {
  const std::string name = text("matmul", {p.m, p.n, p.k});
  expect_as_on_cpu(p.layout.padding == 0 ? name : name + " strided", [&](Bench& bench) {
    for (const Transpose ta : {Transpose::no, Transpose::yes}) {
      for (const Transpose tb : {Transpose::no, Transpose::yes}) {
        Matmul args{.a = operand(bench, p.m, p.k, ta, p.layout),
                    .b = operand(bench, p.k, p.n, tb, p.layout),
                    .transpose_a = ta,
                    .transpose_b = tb,
                    .c = bench.output({p.m, p.n}, p.layout)};
        matmul(bench.stream(), args);
        bench.keep("product", args.c);
        args.accumulate = Accumulate::yes;
        args.c = bench.random_float({p.m, p.n}, -1, 1, p.layout);
        matmul(bench.stream(), args);
        bench.keep("float32 product, accumulated", args.c);
        args.c = bench.random({p.m, p.n}, -1, 1, p.layout);
        matmul(bench.stream(), args);
        bench.keep("product, accumulated", args.c);
        args.accumulate = Accumulate::no;
        args.addend = bench.random({p.m, p.n}, -1, 1, p.layout);
        args.c = bench.output({p.m, p.n}, p.layout);
        matmul(bench.stream(), args);
        bench.keep("product, added", args.c);
      }
    }
  });
}

TEST_F(CudaMatmul, IsAsOnTheCpu) {
  for (const Layout& layout : all_layouts) {
    check_product({1, 1, 1, layout});
    check_product({1, 320, 96, layout});
    check_product({17, 33, 45, layout});
    check_product({256, 384, 512, layout});
    check_product({96, 64, 4096, layout});
  }
}

TEST_F(CudaMatmul, OfNothingIsZero) {
  Bench bench(Device::cuda, DType::float32, false);
  const Tensor c = bench.output({3, 5});
  const Tensor full = bench.random({3, 5});
  const Matmul args{.a = full.columns(0, 0), .b = full.rows(0, 0), .c = c};
  matmul(bench.stream(), args);
  bench.keep("c", c);
  EXPECT_EQ(bench.results()[0].values, std::vector<double>(15, 0.0));
}

}  // namespace
}  // namespace gsa::kernels
