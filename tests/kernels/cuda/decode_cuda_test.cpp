// The operations of a decode step on CUDA against the CPU, in all their partitions.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/captured_work.h"
#include "tests/kernels/cuda/both_devices.h"
#include "tests/support/numeric.h"

namespace gsa::kernels {
namespace {

using test::Bench;
using test::expect_as_on_cpu;

class CudaDecode : public testing::Test {
 protected:
  void SetUp() override { GSA_SKIP_WITHOUT_CUDA() }
};

struct LinearCase {
  int64_t rows;
  int64_t columns;  // K
  int64_t outputs;  // N
};

// Batches of one to several tiles and slices; depths with parts of equal and unequal lengths, with
// fewer steps than parts, and with no multiple of 32; inputs that need clusters of 1 to 8; above
// eight rows, shares of all widths, one and several a cluster, whole and not.
const LinearCase linear_cases[] = {
    {1, 2048, 6400},  {1, 5632, 2048},  {3, 256, 40},     {8, 2048, 333},   {5, 32, 7},
    {13, 704, 264},   {16, 2048, 96},   {27, 5632, 80},   {40, 2048, 512},  {64, 2048, 700},
    {64, 5632, 2048}, {70, 96, 48},     {4, 45, 19},      {20, 6912, 100},  {8, 5632, 333},
    {12, 576, 33},    {9, 64, 24},      {9, 640, 72},     {33, 2048, 6400}, {48, 1344, 8000},
    {64, 6912, 2560}, {33, 1344, 9000}, {64, 2048, 2048}, {20, 2624, 4200}, {48, 8192, 136}};

std::string text(const char* what, const LinearCase& size) {
  return std::string(what) + " " + std::to_string(size.rows) + " x " +
         std::to_string(size.columns) + " -> " + std::to_string(size.outputs);
}

void run_linear(Bench& bench, const LinearCase& size, DecodeNorm norm, DecodeActivation activation,
                bool residual, DType result) {
  const bool gated = activation == DecodeActivation::swiglu;
  const double scale = 3.0 / std::sqrt(double(size.columns));
  const Tensor input = bench.random({size.rows, size.columns}, -2, 2);
  const Tensor weight =
      bench.random({gated ? 2 * size.outputs : size.outputs, size.columns}, -scale, scale);
  DecodeLinear args{
      .input = input, .norm = norm, .weight = weight, .activation = activation, .output = {}};
  if (norm != DecodeNorm::none) {
    args.norm_weight = bench.random({size.columns}, 0.5, 1.5);
  }
  args.output = residual ? bench.random({size.rows, size.outputs})
                         : bench.output(result, {size.rows, size.outputs});
  args.residual = residual ? args.output : Tensor();
  decode_linear(bench.stream(), args);
  bench.keep("output", args.output);
}

// A case and a dtype, of which tools that take long can be given some: names end in 5_bfloat16.
using CaseInDtype = std::tuple<size_t, DType>;
auto all_cases(size_t count) {
  return testing::Combine(testing::Range(size_t{0}, count),
                          testing::Values(DType::float32, DType::bfloat16));
}
std::string name_of_case(const testing::TestParamInfo<CaseInDtype>& info) {
  return std::to_string(std::get<0>(info.param)) + "_" + name_of(std::get<1>(info.param));
}
class CudaDecodeCases : public CudaDecode, public testing::WithParamInterface<CaseInDtype> {
 protected:
  static size_t number() { return std::get<0>(GetParam()); }
  static DType dtype() { return std::get<1>(GetParam()); }
};

class CudaDecodeLinear : public CudaDecodeCases {
 protected:
  static const LinearCase& size() { return linear_cases[number()]; }
};
INSTANTIATE_TEST_SUITE_P(Each, CudaDecodeLinear, all_cases(std::size(linear_cases)), name_of_case);

TEST_P(CudaDecodeLinear, WithNormAndResidualIsAsOnTheCpu) {
  for (const bool residual : {false, true}) {
    expect_as_on_cpu(text("decode_linear rms_norm", size()), dtype(), [&](Bench& bench) {
      run_linear(bench, size(), DecodeNorm::rms_norm, DecodeActivation::none, residual,
                 bench.dtype());
    });
  }
}

TEST_P(CudaDecodeLinear, WithSwigluIsAsOnTheCpu) {
  expect_as_on_cpu(text("decode_linear swiglu", size()), dtype(), [&](Bench& bench) {
    run_linear(bench, size(), DecodeNorm::rms_norm, DecodeActivation::swiglu, false, bench.dtype());
  });
}

TEST_P(CudaDecodeLinear, ToFloatIsAsOnTheCpu) {
  expect_as_on_cpu(text("decode_linear to float32", size()), dtype(), [&](Bench& bench) {
    run_linear(bench, size(), DecodeNorm::none, DecodeActivation::none, false, DType::float32);
  });
}

// Without the norm's weight, and with an epsilon that shows beside the squares' mean of 4 / 3. Up
// to eight rows, and from nine to 64 with parts of the depth of all lengths.
const LinearCase cases_of_ones[] = {{8, 2048, 200},  {9, 256, 72},   {17, 1344, 136},
                                    {33, 2560, 200}, {50, 2880, 72}, {64, 2048, 200},
                                    {64, 5632, 72}};
using CudaDecodeLinearOfOnes = CudaDecodeCases;
INSTANTIATE_TEST_SUITE_P(Each, CudaDecodeLinearOfOnes, all_cases(std::size(cases_of_ones)),
                         name_of_case);

TEST_P(CudaDecodeLinearOfOnes, WithNormIsAsOnTheCpu) {
  const LinearCase& size = cases_of_ones[number()];
  for (const bool gated : {false, true}) {
    expect_as_on_cpu(text("decode_linear rms_norm of ones", size), dtype(), [&](Bench& bench) {
      const double scale = 3.0 / std::sqrt(double(size.columns));
      const Tensor input = bench.random({size.rows, size.columns}, -2, 2);
      const int64_t weights = gated ? 2 * size.outputs : size.outputs;
      const Tensor output = bench.output(DType::float32, {size.rows, size.outputs});
      decode_linear(bench.stream(),
                    {.input = input,
                     .norm = DecodeNorm::rms_norm,
                     .epsilon = 0.5,
                     .weight = bench.random({weights, size.columns}, -scale, scale),
                     .activation = gated ? DecodeActivation::swiglu : DecodeActivation::none,
                     .output = output});
      bench.keep("output", output);
    });
  }
}

// The bits of a sequence's outputs, computed among `rows` others.
std::vector<std::byte> first_row_bits(int64_t rows, int64_t columns) {
  constexpr int64_t outputs = 200;
  Bench bench(Device::cuda, DType::bfloat16, true);
  const Tensor weight = bench.random({outputs, columns}, -0.1, 0.1);
  const Tensor norm_weight = bench.random({columns}, 0.5, 1.5);
  const Tensor row = bench.random({1, columns});
  const Tensor others = bench.random({rows, columns});
  copy(bench.stream(), row, others.rows(0, 1));
  const Tensor output = bench.output({rows, outputs});
  decode_linear(bench.stream(), {.input = others,
                                 .norm = DecodeNorm::rms_norm,
                                 .norm_weight = norm_weight,
                                 .weight = weight,
                                 .output = output});
  bench.keep("output", output);
  std::vector<std::byte> bits = bench.results().front().bits;
  bits.resize(size_t(outputs) * size_of(DType::bfloat16));
  return bits;
}

// Up to eight sequences share one partition.
TEST_F(CudaDecode, LinearGivesASequenceTheSameBitsInSmallBatches) {
  for (const int64_t columns : {2048, 5632}) {
    const std::vector<std::byte> alone = first_row_bits(1, columns);
    for (const int64_t rows : {2, 5, 8}) {
      EXPECT_TRUE(first_row_bits(rows, columns) == alone) << rows << " rows of " << columns;
    }
  }
}

// Nine to 64 share another one.
TEST_F(CudaDecode, LinearGivesASequenceTheSameBitsInLargerBatches) {
  for (const int64_t columns : {2048, 5632}) {
    const std::vector<std::byte> first = first_row_bits(64, columns);
    for (const int64_t rows : {9, 33, 64}) {
      EXPECT_TRUE(first_row_bits(rows, columns) == first) << rows << " rows of " << columns;
    }
  }
}

TEST_F(CudaDecode, CapturedWorkRunsAsOftenAsAsked) {
  Bench bench(Device::cuda, DType::float32, false);
  const Tensor ones = bench.values(DType::float32, {3}, {1, 1, 1});
  const Tensor sum = bench.values(DType::float64, {1}, {0.5});
  CapturedWork work(bench.stream(),
                    [&] { squared_norm(bench.stream(), {.input = ones, .sum = sum}); });
  bench.keep("recorded", sum);
  work.run();
  work.run();
  bench.keep("run twice", sum);
  EXPECT_EQ(bench.results()[0].values.front(), 0.5);
  EXPECT_EQ(bench.results()[1].values.front(), 6.5);
  EXPECT_THROW(CapturedWork(bench.stream(), [] { throw std::logic_error("in between"); }),
               std::logic_error);
  work.run();  // the stream is as it was
  bench.keep("run again", sum);
  EXPECT_EQ(bench.results()[2].values.front(), 9.5);
}

struct StateCase {
  int64_t sequences;
  int64_t query_heads;
  int64_t heads;
  int64_t key_dim;
  int64_t value_dim;
  int64_t slots;
};
const StateCase state_cases[] = {{1, 4, 4, 512, 512, 64}, {27, 4, 4, 512, 512, 64},
                                 {2, 5, 5, 512, 512, 64}, {14, 4, 4, 640, 640, 64},
                                 {3, 8, 2, 128, 128, 64}, {2, 2, 2, 512, 512, 128},
                                 {2, 4, 2, 24, 40, 16},   {1, 1, 1, 12, 4, 20}};

std::string text(const char* what, const StateCase& size) {
  return std::string(what) + " B" + std::to_string(size.sequences) + " H" +
         std::to_string(size.query_heads) + "/" + std::to_string(size.heads) + " K" +
         std::to_string(size.key_dim) + " V" + std::to_string(size.value_dim) + " M" +
         std::to_string(size.slots);
}

int64_t projected_columns(const StateCase& size) {
  return size.query_heads * size.key_dim +
         size.heads * (size.key_dim + size.value_dim + size.slots);
}
Shape kept_shape(const StateCase& size, int64_t period) {
  return KeptTokens::shape(size.sequences, size.heads, period, size.key_dim, size.value_dim,
                           size.slots);
}

// Steps from random states; with a period above 1, tokens are kept between writings of the states.
void run_gsa_steps(Bench& bench, const StateCase& size, int steps, int64_t period = 1,
                   int64_t offset = 0) {
  GsaDecode args{.projected = {},
                 .query_heads = size.query_heads,
                 .heads = size.heads,
                 .key_state = bench.random_float(
                     {size.sequences, size.query_heads, size.key_dim, size.slots}, -0.2, 0.2),
                 .value_state = bench.random_float(
                     {size.sequences, size.query_heads, size.slots, size.value_dim}),
                 .output = {}};
  const Tensor step = bench.integers({0});
  if (period > 1) {
    args.kept = {.rows = bench.output(kept_shape(size, period)), .step = step, .offset = offset};
  }
  for (int i = 0; i < steps; ++i) {
    args.projected = bench.random({size.sequences, projected_columns(size)}, -2, 2);
    args.output = bench.output({size.sequences, size.query_heads * size.value_dim});
    gsa_decode(bench.stream(), args);
    count_step(bench.stream(), {.step = step});
    bench.keep("output", args.output);
  }
  bench.keep("step", step);
  bench.keep("key_state", args.key_state);
  bench.keep("value_state", args.value_state);
}

class CudaGsaSteps : public CudaDecodeCases {
 protected:
  static const StateCase& size() { return state_cases[number()]; }

  // More than two writings of the states, the last of them some steps ago.
  static void expect_kept_as_on_cpu(int period, int64_t offset) {
    expect_as_on_cpu(text("gsa_decode that keeps tokens", size()), dtype(), [&](Bench& bench) {
      run_gsa_steps(bench, size(), 2 * period + 3, period, offset);
    });
  }
};
INSTANTIATE_TEST_SUITE_P(Each, CudaGsaSteps, all_cases(std::size(state_cases)), name_of_case);

TEST_P(CudaGsaSteps, AreAsOnTheCpu) {
  expect_as_on_cpu(text("gsa_decode", size()), dtype(),
                   [&](Bench& bench) { run_gsa_steps(bench, size(), 2); });
}

TEST_P(CudaGsaSteps, ThatKeepTokensAreAsOnTheCpu) {
  expect_kept_as_on_cpu(8, int64_t(2 * number()));
}

TEST_P(CudaGsaSteps, ThatKeepFewTokensAreAsOnTheCpu) {
  expect_kept_as_on_cpu(3, int64_t(2 * number() + 1));
}

// What kept tokens leave is what steps that write their states leave, to rounding: over two periods
// from the same inputs, so that the last step writes.
class CudaGsaStates : public CudaDecode, public testing::WithParamInterface<size_t> {};
INSTANTIATE_TEST_SUITE_P(Each, CudaGsaStates, testing::Range(size_t{0}, std::size(state_cases)));

TEST_P(CudaGsaStates, OfKeptTokensAreWhatOtherStepsLeave) {
  const StateCase& size = state_cases[GetParam()];
  constexpr int period = 8;
  std::vector<Bench::Result> results[2];
  for (const bool keeps : {false, true}) {
    Bench bench(Device::cuda, DType::float32, false);
    run_gsa_steps(bench, size, 2 * period, keeps ? period : 1);
    results[keeps ? 1 : 0] = bench.results();
  }
  for (size_t i = 0; i < results[0].size(); ++i) {
    EXPECT_LT(test::relative_error(results[1][i].values, results[0][i].values),
              test::cuda_float_tolerance)
        << text("gsa_decode", size) << ": " << results[0][i].name << " " << i;
  }
}

// A recorded step with its count, run again and again: the number comes from the device.
TEST_F(CudaDecode, GsaStepsThatKeepTokensLeaveTheSameWhenTheyAreRecorded) {
  const StateCase size{5, 4, 2, 512, 512, 64};
  constexpr int64_t period = 8;
  constexpr int steps = 29;
  std::vector<std::vector<std::byte>> bits[2];
  for (const bool recorded : {false, true}) {
    Bench bench(Device::cuda, DType::bfloat16, true);
    const Tensor token = bench.random_float({size.sequences, projected_columns(size)}, -2, 2);
    const Tensor projected = bench.output(token.shape());
    const Tensor step = bench.integers({0});
    const GsaDecode args{
        .projected = projected,
        .query_heads = size.query_heads,
        .heads = size.heads,
        .key_state = bench.random_float(
            {size.sequences, size.query_heads, size.key_dim, size.slots}, -0.2, 0.2),
        .value_state =
            bench.random_float({size.sequences, size.query_heads, size.slots, size.value_dim}),
        .kept = {.rows = bench.output(kept_shape(size, period)), .step = step, .offset = 2},
        .output = bench.output({size.sequences, size.query_heads * size.value_dim})};
    const auto work = [&] {
      convert(bench.stream(), {.input = token, .output = projected});
      gsa_decode(bench.stream(), args);
      count_step(bench.stream(), {.step = step});
    };
    if (recorded) {
      CapturedWork captured(bench.stream(), work);
      for (int i = 0; i < steps; ++i) {
        captured.run();
      }
    } else {
      for (int i = 0; i < steps; ++i) {
        work();
      }
    }
    bench.keep("step", step);
    bench.keep("output", args.output);
    bench.keep("key_state", args.key_state);
    bench.keep("value_state", args.value_state);
    EXPECT_EQ(bench.results().front().values.front(), steps);
    for (const Bench::Result& result : bench.results()) {
      bits[recorded ? 1 : 0].push_back(result.bits);
    }
  }
  EXPECT_TRUE(bits[0] == bits[1]);
}

const SamplingOptions sampling_options[] = {
    {.temperature = 0},
    {.seed = 1},
    {.temperature = 0.7, .top_k = 40, .seed = 2},
    {.top_p = 0.9, .seed = 3},
    {.temperature = 1.3, .top_k = 1000, .top_p = 0.5, .seed = 4},
    {.temperature = 0.01, .top_p = 1e-9, .seed = 5}};

// Tokens drawn three times, and the positions and the last two draws afterwards. Rows of logits
// with gaps begin anywhere, the others at multiples of 16 bytes where there are 32,000.
std::vector<double> drawn_tokens(Device device, const SamplingOptions& options, int64_t vocabulary,
                                 bool rounded, const test::Layout& layout) {
  Bench bench(device, DType::float32, rounded);
  const Tensor logits = bench.random({64, vocabulary}, -9, 9, layout);
  const Tensor positions = bench.integers(bench.random_integers(64, 1000));
  const Tensor drawn = bench.output(DType::int32, {64});
  const Tensor history = bench.output(DType::int32, {2, 64});
  for (int i = 0; i < 3; ++i) {
    sample_tokens(bench.stream(), {.logits = logits,
                                   .options = options,
                                   .first_sequence = 5,
                                   .positions = positions,
                                   .tokens = drawn,
                                   .history = history});
    bench.keep("tokens", drawn);
  }
  bench.keep("positions", positions);
  bench.keep("history", history);
  std::vector<double> all;
  for (const Bench::Result& result : bench.results()) {
    all.insert(all.end(), result.values.begin(), result.values.end());
  }
  return all;
}

// Options and a vocabulary.
using SamplingCase = std::tuple<size_t, int64_t>;
std::string name_of_sampling(const testing::TestParamInfo<SamplingCase>& info) {
  return std::to_string(std::get<0>(info.param)) + "_" + std::to_string(std::get<1>(info.param));
}
class CudaSampling : public CudaDecode, public testing::WithParamInterface<SamplingCase> {};

TEST_P(CudaSampling, DrawsTheTokensOfTheCpu) {
  const auto [number, vocabulary] = GetParam();
  const SamplingOptions& options = sampling_options[number];
  for (const bool rounded : {false, true}) {  // rounded: many are equally probable
    for (const test::Layout& layout : {test::contiguous, test::odd_gaps}) {
      EXPECT_EQ(drawn_tokens(Device::cpu, options, vocabulary, rounded, layout),
                drawn_tokens(Device::cuda, options, vocabulary, rounded, layout))
          << "seed " << options.seed << ", padding " << layout.padding;
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Each, CudaSampling,
                         testing::Combine(testing::Range(size_t{0}, std::size(sampling_options)),
                                          testing::Values(int64_t{1}, int64_t{33}, int64_t{32000},
                                                          int64_t{40004})),
                         name_of_sampling);

}  // namespace
}  // namespace gsa::kernels
