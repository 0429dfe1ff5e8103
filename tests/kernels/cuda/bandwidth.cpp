// What the operations take at the sizes of a 1.3B model, against this GPU's own copy bandwidth:
// prints a table where GSA_CUDA_BANDWIDTH is set, and asserts nothing.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>

#include "tests/kernels/cuda/both_devices.h"

namespace gsa::kernels {
namespace {

using test::Bench;

// Micro-batch 8 of length 2048 of configs/gsa-1.3b.yaml.
constexpr int64_t tokens = 16384;
constexpr int64_t hidden = 2048;
constexpr int64_t glu_width = 5632;
constexpr int64_t vocabulary = 32000;
constexpr int64_t gates = 256;
constexpr int64_t mixer_width = 3 * hidden + gates;
constexpr int64_t parameters = 100'000'000;  // a slice of the model's 1.377e9
constexpr int64_t loss_rows = 4096;          // a slice of the logits

// Buffers that measurements share, full of random numbers.
class Pool {
 public:
  explicit Pool(Bench& bench) : bench_(bench) {}

  // Distinct memory for each `slot`.
  Tensor tensor(const std::string& slot, DType dtype, Shape shape) {
    const size_t bytes = size_t(shape.count()) * size_of(dtype);
    auto [found, added] = buffers_.try_emplace(slot + name_of(dtype));
    if (added || found->second.bytes() < bytes) {
      found->second = Buffer(Device::cuda, bytes);
      fill(found->second.tensor(dtype, {shape.count()}));
    }
    return found->second.tensor(dtype, shape);
  }

 private:
  // A block of random numbers from the host, copied over and over.
  void fill(const Tensor& target) {
    if (target.dtype() == DType::float64) {  // sums
      fill_zero(bench_.stream(), target);
      return;
    }
    const int64_t block = std::min(target.count(), int64_t{1} << 20);
    const Tensor random = bench_.random_float({block});
    const Tensor start = target.rows(0, block);
    if (target.dtype() == DType::float32) {
      copy(bench_.stream(), random, start);
    } else {
      convert(bench_.stream(), {.input = random, .output = start});
    }
    for (int64_t done = block; done < target.count();) {
      const int64_t more = std::min(done, target.count() - done);
      copy(bench_.stream(), target.rows(0, more), target.rows(done, done + more));
      done += more;
    }
  }

  Bench& bench_;
  std::map<std::string, Buffer> buffers_;
};

class Bandwidth : public testing::Test {
 protected:
  void SetUp() override {
    GSA_SKIP_WITHOUT_CUDA()
    if (std::getenv("GSA_CUDA_BANDWIDTH") == nullptr) {
      GTEST_SKIP() << "set GSA_CUDA_BANDWIDTH=1 to measure";
    }
    bench_ = std::make_unique<Bench>(Device::cuda, DType::bfloat16, true);
    pool_ = std::make_unique<Pool>(*bench_);
  }

  Stream& stream() { return bench_->stream(); }
  Tensor half(const std::string& slot, Shape shape) {
    return pool_->tensor(slot, DType::bfloat16, shape);
  }
  Tensor single(const std::string& slot, Shape shape) {
    return pool_->tensor(slot, DType::float32, shape);
  }

  // The median time in milliseconds, each run after the L2 cache was filled with other data.
  double median_ms(const std::function<void()>& run) {
    constexpr int warm_up = 3;
    constexpr int repeats = 15;
    constexpr int64_t cache_elements = int64_t{64} << 20;  // 256 MiB
    const Tensor cache = single("cache", {cache_elements});
    const Tensor sum = pool_->tensor("cache sum", DType::float64, {1});
    std::vector<double> times;
    for (int i = 0; i < warm_up + repeats; ++i) {
      squared_norm(stream(), {.input = cache, .sum = sum});
      Event start(Device::cuda);
      Event end(Device::cuda);
      start.record(stream());
      run();
      end.record(stream());
      end.synchronize();
      if (i >= warm_up) {
        times.push_back(end.milliseconds_since(start));
      }
    }
    std::nth_element(times.begin(), times.begin() + repeats / 2, times.end());
    return times[repeats / 2];
  }

  void measure(const char* name, double bytes, const std::function<void()>& run) {
    const double ms = median_ms(run);
    const double rate = bytes / ms / 1e6;
    copy_rate_ = copy_rate_ == 0 ? rate : copy_rate_;
    std::printf("  %-44s %8.3f ms %7.0f GB/s %5.0f %%\n", name, ms, rate, 100 * rate / copy_rate_);
  }

  void measure_flops(const char* name, double flops, const std::function<void()>& run) {
    const double ms = median_ms(run);
    std::printf("  %-44s %8.3f ms %7.0f TFLOP/s\n", name, ms, flops / ms / 1e9);
  }
  void measure_product(const char* name, const Matmul& args) {
    measure_flops(name, args.flops(), [&] { matmul(stream(), args); });
  }

  std::unique_ptr<Bench> bench_;
  std::unique_ptr<Pool> pool_;
  double copy_rate_ = 0;  // the first that is measured
};

TEST_F(Bandwidth, OfElementwiseOperations) {
  const double matrix = double(tokens * hidden) * 2;
  const double wide = double(tokens * glu_width) * 2;
  const Shape shape{tokens, hidden};
  const Tensor x = half("x", shape);
  const Tensor y = half("y", shape);
  const Tensor z = half("z", shape);
  const Tensor mixer = half("mixer", {tokens, mixer_width});
  const Tensor mixer_grad = half("mixer grad", {tokens, mixer_width});
  const Tensor columns = mixer.columns(0, 3 * hidden);
  const Tensor gate = mixer.columns(3 * hidden, mixer_width);
  const Tensor log_alpha = single("log alpha", {tokens, gates});
  const Tensor gate_up = half("gate up", {tokens, 2 * glu_width});
  const Tensor grad_gate_up = half("grad gate up", {tokens, 2 * glu_width});
  const Tensor glu = half("glu", {tokens, glu_width});
  const Tensor big = half("big", {tokens, 4 * hidden});
  const Tensor big_copy = half("big copy", {tokens, 4 * hidden});
  measure("copy", 8 * matrix, [&] { copy(stream(), big, big_copy); });
  measure("swish forward, [N, 3D] of [N, 3D+256], in place", 6 * matrix,
          [&] { swish_forward(stream(), {.input = columns, .output = columns}); });
  measure("swish backward, the same", 9 * matrix, [&] {
    const Tensor grad = mixer_grad.columns(0, 3 * hidden);
    swish_backward(stream(), {.input = columns, .grad_output = grad, .grad_input = grad});
  });
  measure("log_gate forward", double(tokens * gates) * 6,
          [&] { log_gate_forward(stream(), {.input = gate, .log_alpha = log_alpha}); });
  measure("log_gate backward", double(tokens * gates) * 8, [&] {
    log_gate_backward(stream(), {.input = gate,
                                 .grad_log_alpha = log_alpha,
                                 .grad_input = mixer_grad.columns(3 * hidden, mixer_width)});
  });
  measure("swiglu forward", 3 * wide,
          [&] { swiglu_forward(stream(), {.gate_up = gate_up, .output = glu}); });
  measure("swiglu backward with output", 6 * wide, [&] {
    swiglu_backward(
        stream(),
        {.gate_up = gate_up, .grad_output = glu, .output = glu, .grad_gate_up = grad_gate_up});
  });
  const Tensor weight = half("weight", {hidden});
  const Tensor grad_weight = single("grad weight", {hidden});
  const Tensor statistics = single("statistics", {tokens});
  measure("rms_norm forward", 2 * matrix, [&] {
    rms_norm_forward(stream(),
                     {.input = x, .weight = weight, .output = y, .inverse_rms = statistics});
  });
  measure("rms_norm backward with residual", 4 * matrix, [&] {
    rms_norm_backward(stream(), {.input = x,
                                 .weight = weight,
                                 .inverse_rms = statistics,
                                 .grad_output = y,
                                 .grad_residual = z,
                                 .grad_input = z,
                                 .grad_weight = grad_weight});
  });
  measure("rms_norm backward with residual and output", 5 * matrix, [&] {
    rms_norm_backward(stream(), {.input = x,
                                 .weight = weight,
                                 .inverse_rms = statistics,
                                 .grad_output = y,
                                 .grad_residual = z,
                                 .output = y,
                                 .grad_input = z,
                                 .grad_weight = grad_weight});
  });
  measure("swish_rms_norm forward", 2 * matrix, [&] {
    swish_rms_norm_forward(stream(),
                           {.input = x, .weight = weight, .output = y, .inverse_rms = statistics});
  });
  measure("swish_rms_norm backward", 3 * matrix, [&] {
    swish_rms_norm_backward(stream(), {.input = x,
                                       .weight = weight,
                                       .inverse_rms = statistics,
                                       .grad_output = y,
                                       .grad_input = y,
                                       .grad_weight = grad_weight});
  });
  measure("swish_rms_norm backward with output", 4 * matrix, [&] {
    swish_rms_norm_backward(stream(), {.input = x,
                                       .weight = weight,
                                       .inverse_rms = statistics,
                                       .grad_output = y,
                                       .output = y,
                                       .grad_input = z,
                                       .grad_weight = grad_weight});
  });
}

// Tokens as text has them: the r-th most frequent about as often as 1 / r.
std::vector<int32_t> text_like(Bench& bench) {
  std::vector<int32_t> ids = bench.random_integers(tokens, 1 << 30);
  for (int32_t& id : ids) {
    id = std::min(int32_t(std::pow(double(vocabulary), double(id) / double(1 << 30))),
                  int32_t(vocabulary - 1));
  }
  return ids;
}

TEST_F(Bandwidth, OfEmbeddingLossAndOptimizer) {
  const double matrix = double(tokens * hidden) * 2;
  const Tensor big = single("gradient", {parameters});
  const Tensor master = single("master", {parameters});
  measure("copy", 8.0 * parameters, [&] { copy(stream(), big, master); });
  const Tensor ids = bench_->integers(text_like(*bench_));
  const Tensor table = half("table", {vocabulary, hidden});
  const Tensor grad_table = single("grad table", {vocabulary, hidden});
  const Tensor x = half("x", {tokens, hidden});
  measure("embedding forward", 2 * matrix,
          [&] { embedding_forward(stream(), {.tokens = ids, .table = table, .output = x}); });
  measure("embedding backward (gradient only counted)", matrix, [&] {
    embedding_backward(stream(), {.tokens = ids, .grad_output = x, .grad_table = grad_table});
  });
  const Tensor logits = half("logits", {loss_rows, vocabulary});
  const Tensor losses = single("losses", {tokens});
  const double logit_bytes = double(loss_rows * vocabulary) * 2;
  const CrossEntropy loss{.labels = ids.rows(0, loss_rows),
                          .gradient_scale = 1,
                          .logits = logits,
                          .losses = losses.rows(0, loss_rows)};
  measure("cross_entropy with gradient, 4096 rows", 2 * logit_bytes,
          [&] { cross_entropy(stream(), loss); });
  CrossEntropy evaluation = loss;
  evaluation.gradient_scale = 0;
  measure("cross_entropy without", logit_bytes, [&] { cross_entropy(stream(), evaluation); });
  const Tensor totals = pool_->tensor("totals", DType::float64, {2});
  measure("sum_losses", double(tokens) * 8,
          [&] { sum_losses(stream(), {.losses = losses, .labels = ids, .totals = totals}); });
  measure("squared_norm, 1e8", 4.0 * parameters,
          [&] { squared_norm(stream(), {.input = big, .sum = totals.rows(0, 1)}); });
  const Tensor weights = half("weights", {parameters});
  AdamW update{.gradient = big,
               .scale = bench_->values(DType::float64, {1}, {1e-3}),
               .learning_rate = 1e-4,
               .weight_decay = 0.01,
               .first_moment = single("first moment", {parameters}),
               .second_moment = single("second moment", {parameters}),
               .weights = weights,
               .remainder = bench_->output(DType::int16, {parameters})};
  measure("adamw, 1e8", 28.0 * parameters, [&] { adamw(stream(), update); });
  measure("convert, 1e8", 6.0 * parameters,
          [&] { convert(stream(), {.input = master, .output = weights}); });
}

// The three products of y = x W^T, W [out, in]: forward, data gradient, weight gradient.
TEST_F(Bandwidth, OfProducts) {
  struct Layer {
    const char* name;
    int64_t out, in;
  };
  for (const Layer& layer :
       {Layer{"q/k/v/f", mixer_width, hidden}, Layer{"o", hidden, hidden},
        Layer{"gate/up", 2 * glu_width, hidden}, Layer{"down", hidden, glu_width},
        Layer{"lm_head", vocabulary, hidden}}) {
    const Tensor x = half("product x", {tokens, layer.in});
    const Tensor y = half("product y", {tokens, layer.out});
    const Tensor w = half("product w", {layer.out, layer.in});
    const Tensor grad_w = single("product grad w", {layer.out, layer.in});
    const std::string name = layer.name;
    measure_product((name + " forward").c_str(),
                    {.a = x, .b = w, .transpose_b = Transpose::yes, .c = y});
    measure_product((name + " data gradient").c_str(), {.a = y, .b = w, .c = x});
    measure_product((name + " weight gradient, float32 accumulated").c_str(),
                    {.a = y,
                     .b = x,
                     .transpose_a = Transpose::yes,
                     .accumulate = Accumulate::yes,
                     .c = grad_w});
  }
}

// The operations of a decode step of 64 sequences, by what they must read and write.
TEST_F(Bandwidth, OfDecodeOperations) {
  constexpr int64_t sequences = 64;
  constexpr int64_t heads = 4;
  constexpr int64_t head_dim = hidden / heads;
  constexpr int64_t slots = gates / heads;
  const auto product = [&](const char* name, int64_t out, int64_t in, DecodeNorm norm,
                           DecodeActivation activation, bool onto) {
    const bool gated = activation == DecodeActivation::swiglu;
    const DecodeLinear args{
        .input = half("decode input", {sequences, in}),
        .norm = norm,
        .norm_weight = norm == DecodeNorm::none ? Tensor() : half("decode norm", {in}),
        .weight = half("product w", {gated ? 2 * out : out, in}),
        .activation = activation,
        .residual = onto ? half("decode output", {sequences, out}) : Tensor(),
        .output = half("decode output", {sequences, out})};
    measure(name, 2 * double(args.weight.count()), [&] { decode_linear(stream(), args); });
  };
  using enum DecodeActivation;
  product("decode q/k/v/f", mixer_width, hidden, DecodeNorm::rms_norm, none, false);
  product("decode o", hidden, hidden, DecodeNorm::rms_norm, none, true);
  product("decode gate/up", glu_width, hidden, DecodeNorm::rms_norm, swiglu, false);
  product("decode down", hidden, glu_width, DecodeNorm::none, none, true);
  product("decode lm_head", vocabulary, hidden, DecodeNorm::rms_norm, none, false);
  const GsaDecode gsa{.projected = half("decode output", {sequences, mixer_width}),
                      .query_heads = heads,
                      .heads = heads,
                      .key_state = single("key state", {sequences, heads, head_dim, slots}),
                      .value_state = single("value state", {sequences, heads, slots, head_dim}),
                      .output = half("decode input", {sequences, hidden})};
  measure("decode gsa", 4 * 2 * double(gsa.key_state.count() + gsa.value_state.count()),
          [&] { gsa_decode(stream(), gsa); });
  // In the middle between two writings of the states, and where they are written.
  constexpr int32_t period = 8;
  const double state_bytes = 4 * double(gsa.key_state.count() + gsa.value_state.count());
  GsaDecode keeping = gsa;
  keeping.kept.rows =
      half("kept tokens", KeptTokens::shape(sequences, heads, period, head_dim, head_dim, slots));
  keeping.kept.step = bench_->integers({period / 2});
  measure("decode gsa, tokens kept", state_bytes, [&] { gsa_decode(stream(), keeping); });
  keeping.kept.step = bench_->integers({period - 1});
  measure("decode gsa, tokens kept, states written", 2 * state_bytes,
          [&] { gsa_decode(stream(), keeping); });
}

TEST_F(Bandwidth, OfProductsWithSwiglu) {
  const Tensor x = half("product x", {tokens, hidden});
  const Tensor gate_up = half("gate up", {tokens, 2 * glu_width});
  const Tensor glu = half("glu", {tokens, glu_width});
  const SwigluProductForward forward{.input = x,
                                     .weight = half("product w", {2 * glu_width, hidden}),
                                     .gate_up = gate_up,
                                     .output = glu};
  measure_flops("gate/up forward with swiglu", forward.flops(),
                [&] { swiglu_product_forward(stream(), forward); });
  SwigluProductForward alone = forward;
  alone.output = {};
  measure_flops("gate/up forward, the same without", forward.flops(),
                [&] { swiglu_product_forward(stream(), alone); });
  const SwigluProductBackward backward{
      .grad_product = x,
      .weight = half("down w", {hidden, glu_width}),
      .gate_up = gate_up,
      .output = glu,
      .grad_gate_up = half("grad gate up", {tokens, 2 * glu_width})};
  measure_flops("down data gradient with swiglu", backward.flops(),
                [&] { swiglu_product_backward(stream(), backward); });
}

}  // namespace
}  // namespace gsa::kernels
