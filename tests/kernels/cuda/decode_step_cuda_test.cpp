// Whole decode steps on CUDA: in one kernel where its sizes allow, against the CPU.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/captured_work.h"
#include "tests/kernels/cuda/both_devices.h"

namespace gsa::kernels {
namespace {

using test::Bench;
using test::expect_as_on_cpu;

class CudaDecodeStep : public testing::Test {
 protected:
  void SetUp() override { GSA_SKIP_WITHOUT_CUDA() }
};

struct StepCase {
  int64_t sequences;
  int64_t query_heads;
  int64_t heads;
  int64_t dim;  // of a head, keys and values alike
  int64_t intermediate;
  int64_t vocabulary;
  int layers = 1;

  int64_t hidden() const { return query_heads * dim; }
  std::string name() const {
    return "decode_step B" + std::to_string(sequences) + " H" + std::to_string(query_heads) + "/" +
           std::to_string(heads) + " x " + std::to_string(dim) + ", " +
           std::to_string(intermediate) + ", " + std::to_string(vocabulary);
  }
};

constexpr int64_t slots = 64;

// The layers of a model with random weights.
class Model {
 public:
  Model(Bench& bench, const StepCase& size) : bench_(bench), size_(size) {
    const int64_t hidden = size.hidden();
    for (int i = 0; i < size.layers; ++i) {
      layers_.push_back({.norm = norm(),
                         .project = matrix(projected_columns(), hidden),
                         .mixer_norm = norm(),
                         .mixer_output = matrix(hidden, hidden),
                         .glu_norm = norm(),
                         .gate_up = matrix(2 * size.intermediate, hidden),
                         .down = matrix(hidden, size.intermediate)});
    }
    norm_ = norm();
    head_ = matrix(size.vocabulary, hidden);
  }

  std::vector<Tensor> states(int64_t sequences) const {
    std::vector<Tensor> states;
    for (int i = 0; i < size_.layers; ++i) {
      states.push_back(
          bench_.random_float({sequences, size_.query_heads, size_.dim, slots}, -0.2, 0.2));
      states.push_back(bench_.random_float({sequences, size_.query_heads, slots, size_.dim}));
    }
    return states;
  }

  // What a step leaves on its way, the stream and the logits.
  struct Results {
    Tensor projected;
    Tensor o;
    Tensor activated;
    Tensor stream;
    Tensor logits;
  };
  Results results(int64_t sequences) const {
    return {.projected = bench_.output({sequences, projected_columns()}),
            .o = bench_.output({sequences, size_.hidden()}),
            .activated = bench_.output({sequences, size_.intermediate}),
            .stream = bench_.output({sequences, size_.hidden()}),
            .logits = bench_.output(DType::float32, {sequences, size_.vocabulary})};
  }

  DecodeStep step(const std::vector<Tensor>& states, const Results& to) const {
    DecodeStep step;
    const auto add = [&](ConstTensor input, ConstTensor norm, ConstTensor weight,
                         DecodeActivation activation, ConstTensor residual, Tensor output) {
      step.operations.emplace_back(
          DecodeLinear{.input = input,
                       .norm = norm ? DecodeNorm::rms_norm : DecodeNorm::none,
                       .norm_weight = norm,
                       .weight = weight,
                       .activation = activation,
                       .residual = residual,
                       .output = output});
    };
    constexpr auto none = DecodeActivation::none;
    for (size_t i = 0; i < layers_.size(); ++i) {
      const Layer& layer = layers_[i];
      add(to.stream, layer.norm, layer.project, none, {}, to.projected);
      step.operations.emplace_back(GsaDecode{.projected = to.projected,
                                             .query_heads = size_.query_heads,
                                             .heads = size_.heads,
                                             .key_state = states[2 * i],
                                             .value_state = states[2 * i + 1],
                                             .output = to.o});
      add(to.o, layer.mixer_norm, layer.mixer_output, none, to.stream, to.stream);
      add(to.stream, layer.glu_norm, layer.gate_up, DecodeActivation::swiglu, {}, to.activated);
      add(to.activated, {}, layer.down, none, to.stream, to.stream);
    }
    add(to.stream, norm_, head_, none, {}, to.logits);
    return step;
  }

 private:
  struct Layer {
    Tensor norm;
    Tensor project;
    Tensor mixer_norm;
    Tensor mixer_output;
    Tensor glu_norm;
    Tensor gate_up;
    Tensor down;
  };
  int64_t projected_columns() const {
    return size_.hidden() + size_.heads * (2 * size_.dim + slots);
  }
  Tensor norm() const { return bench_.random({size_.hidden()}, 0.5, 1.5); }
  Tensor matrix(int64_t rows, int64_t columns) const {
    const double scale = 2.0 / std::sqrt(double(columns));
    return bench_.random({rows, columns}, -scale, scale);
  }

  Bench& bench_;
  StepCase size_;
  std::vector<Layer> layers_;
  Tensor norm_;
  Tensor head_;
};

void keep_all(Bench& bench, const Model::Results& results, const std::vector<Tensor>& states) {
  bench.keep("projected", results.projected);
  bench.keep("o", results.o);
  bench.keep("activated", results.activated);
  bench.keep("stream", results.stream);
  bench.keep("logits", results.logits);
  for (const Tensor& state : states) {
    bench.keep("state", state);
  }
}

void run_steps(Bench& bench, const StepCase& size) {
  const Model model(bench, size);
  const std::vector<Tensor> states = model.states(size.sequences);
  const Model::Results results = model.results(size.sequences);
  const DecodeStep step = model.step(states, results);
  for (int i = 0; i < 2; ++i) {
    copy(bench.stream(), bench.random({size.sequences, size.hidden()}), results.stream);
    decode_step(bench.stream(), step);
    keep_all(bench, results, states);
  }
}

// The 1.3B model's widths; grouped heads, and outputs that fill no unit; parts of heads that blocks
// have three of.
const StepCase step_cases[] = {{1, 4, 4, 512, 5632, 640},
                               {5, 8, 2, 64, 1440, 333},
                               {2, 4, 1, 128, 6912, 37, 2},
                               {8, 5, 5, 512, 96, 40},
                               // Another kernel; and a head that it does not take, grouped heads.
                               {64, 4, 4, 512, 5632, 640},
                               {64, 4, 2, 512, 1408, 16000, 2}};

TEST_F(CudaDecodeStep, InOneKernelIsAsOnTheCpu) {
  for (const StepCase& size : step_cases) {
    expect_as_on_cpu(size.name(), DType::bfloat16, test::cuda_bfloat16_tolerance,
                     [&](Bench& bench) { run_steps(bench, size); });
  }
}

// Sizes and types that the kernel does not take.
TEST_F(CudaDecodeStep, OneByOneIsAsOnTheCpu) {
  expect_as_on_cpu("decode_step one by one", [](Bench& bench) {
    run_steps(bench, {3, 4, 2, 24, 88, 19});
  });
  expect_as_on_cpu("decode_step of many", [](Bench& bench) {
    run_steps(bench, {11, 4, 4, 64, 512, 64});
  });
  expect_as_on_cpu("decode_step of 64 one by one", [](Bench& bench) {
    run_steps(bench, {64, 3, 3, 64, 168, 77});
  });
}

// The bits that one sequence's step leaves, computed as the last of `sequences`.
std::vector<std::vector<std::byte>> last_sequence_bits(int64_t sequences) {
  const StepCase size{sequences, 4, 2, 128, 1408, 200, 2};
  Bench bench(Device::cuda, DType::bfloat16, true);
  const Model model(bench, size);
  const std::vector<Tensor> own = model.states(1);
  const Tensor token = bench.random({1, size.hidden()});
  const std::vector<Tensor> states = model.states(sequences);
  const Model::Results results = model.results(sequences);
  copy(bench.stream(), bench.random({sequences, size.hidden()}), results.stream);
  copy(bench.stream(), token, results.stream.rows(sequences - 1, sequences));
  for (size_t i = 0; i < states.size(); ++i) {
    copy(bench.stream(), own[i], states[i].rows(sequences - 1, sequences));
  }
  decode_step(bench.stream(), model.step(states, results));
  keep_all(bench, results, states);
  std::vector<std::vector<std::byte>> all;
  for (const Bench::Result& result : bench.results()) {
    const size_t bytes = result.bits.size() / size_t(sequences);
    all.emplace_back(result.bits.end() - std::ptrdiff_t(bytes), result.bits.end());
  }
  return all;
}

TEST_F(CudaDecodeStep, GivesASequenceTheSameBitsAmongUpToEight) {
  const auto alone = last_sequence_bits(1);
  for (int64_t sequences = 2; sequences <= 8; ++sequences) {
    EXPECT_TRUE(last_sequence_bits(sequences) == alone) << "among " << sequences;
  }
}

void expect_same_bits_when_recorded(const StepCase& size) {
  constexpr int runs = 50;
  std::vector<std::vector<std::byte>> bits[2];
  for (const bool recorded : {false, true}) {
    Bench bench(Device::cuda, DType::bfloat16, true);
    const Model model(bench, size);
    const std::vector<Tensor> states = model.states(size.sequences);
    const Model::Results results = model.results(size.sequences);
    const Tensor token = bench.random({size.sequences, size.hidden()});
    const DecodeStep step = model.step(states, results);
    const auto work = [&] {
      copy(bench.stream(), token, results.stream);
      decode_step(bench.stream(), step);
    };
    if (recorded) {
      CapturedWork captured(bench.stream(), work);
      for (int i = 0; i < runs; ++i) {
        captured.run();
      }
      keep_all(bench, results, states);
    } else {
      for (int i = 0; i < runs; ++i) {
        work();
      }
      keep_all(bench, results, states);
    }
    for (const Bench::Result& result : bench.results()) {
      bits[recorded ? 1 : 0].push_back(result.bits);
    }
  }
  EXPECT_TRUE(bits[0] == bits[1]) << size.name();
}

TEST_F(CudaDecodeStep, LeavesTheSameBitsWhenItIsRecorded) {
  expect_same_bits_when_recorded({3, 4, 4, 128, 1408, 1000, 3});
  expect_same_bits_when_recorded({64, 4, 4, 512, 1408, 1000});
}

}  // namespace
}  // namespace gsa::kernels
