// The projected mode of gated slot attention is the op on activated inputs, and refuses half of it.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/kernels/gsa_case.h"

namespace gsa::test {
namespace {

constexpr double double_tolerance = 1e-11;
constexpr double float_tolerance = 1e-4;

double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

// The problem on activated inputs.
GsaProblem activated(GsaProblem problem) {
  for (const char* name : {"q", "k", "v"}) {
    for (double& x : problem.inputs.at(name)) {
      x *= sigmoid(x);
    }
  }
  std::vector<double> log_alpha = problem.inputs.at("gate_logits");
  for (double& x : log_alpha) {
    x = std::log(sigmoid(x)) / problem.gate_normalizer;
  }
  problem.inputs.erase("gate_logits");
  problem.inputs["log_alpha"] = log_alpha;
  return problem;
}

// Its gradients as gradients of the projections.
Arrays through_activations(const GsaProblem& projected, Arrays gradients) {
  for (const char* name : {"q", "k", "v"}) {
    const std::vector<double>& x = projected.inputs.at(name);
    std::vector<double>& gradient = gradients.at(name);
    for (size_t i = 0; i < x.size(); ++i) {
      const double s = sigmoid(x[i]);
      gradient[i] *= s * (1 + x[i] * (1 - s));
    }
  }
  std::vector<double> gate = gradients.at("log_alpha");
  const std::vector<double>& logits = projected.inputs.at("gate_logits");
  for (size_t i = 0; i < gate.size(); ++i) {
    gate[i] *= sigmoid(-logits[i]) / projected.gate_normalizer;
  }
  gradients.erase("log_alpha");
  gradients["gate_logits"] = gate;
  return gradients;
}

void expect_close(const Arrays& results, const Arrays& expected, double tolerance) {
  ASSERT_EQ(results.size(), expected.size());
  for (const auto& [name, values] : expected) {
    EXPECT_LE(relative_error(results.at(name), values), tolerance) << name;
  }
}

TEST(GsaProjected, IsTheOpOnActivatedInputs) {
  constexpr int64_t padding = 24;
  const GsaProblem problem = random_projected_problem({{70, 0, 21}, 4, 2, 32, 16, 16}, 1);
  GsaCase plain(activated(problem), DType::float64);
  plain.forward(Form::definition);
  plain.backward(Form::definition);
  const Arrays gradients = through_activations(problem, plain.gradients());
  for (Form form : all_forms) {
    for (DType dtype : {DType::float64, DType::float32}) {
      SCOPED_TRACE(name_of(form));
      const double tolerance = dtype == DType::float64 ? double_tolerance : float_tolerance;
      GsaCase projected(problem, dtype, padding);
      projected.forward(form);
      projected.backward(form);
      expect_close(projected.outputs(), plain.outputs(), tolerance);
      expect_close(projected.gradients(), gradients, tolerance);
      EXPECT_TRUE(projected.gaps_are_untouched());
    }
  }
}

TEST(GsaProjected, WhatTheForwardPassSavedServesTheBackwardPass) {
  const GsaProblem problem = random_projected_problem({{130, 20}, 4, 2, 32, 16, 16, false}, 2);
  GsaCase made_again(problem, DType::float32);
  made_again.backward(Form::chunked);
  GsaCase saved(problem, DType::float32);
  kernels::GsaBackward args = saved.backward_args();
  const auto bytes = static_cast<int64_t>(kernels::gsa_chunked_saved_bytes(args.forward));
  const Buffer memory(Device::cpu, static_cast<size_t>(bytes));
  args.forward.saved = memory.tensor(DType::byte, {bytes});
  saved.run_forward(Form::chunked, args.forward);
  saved.run_backward(Form::chunked, args);
  EXPECT_EQ(saved.gradients(), made_again.gradients());
}

// What the fused product of a layer gives and takes: [q | k | v | gate logits] in one row.
TEST(GsaProjected, TakesColumnsOfOneProduct) {
  const GsaShape shape{{33, 40}, 2, 1, 16, 32, 16, false};
  const GsaProblem problem = random_projected_problem(shape, 3);
  GsaCase apart(problem, DType::float64);
  apart.forward(Form::chunked);
  apart.backward(Form::chunked);

  const int64_t tokens = shape.tokens();
  const std::pair<const char*, int64_t> parts[] = {
      {"q", 2 * 16}, {"k", 16}, {"v", 32}, {"gate_logits", 16}};
  constexpr int64_t width = 2 * 16 + 16 + 32 + 16;
  HostTensor rows(DType::float64, {tokens, width});
  HostTensor gradients(DType::float64, {tokens, width});
  GsaCase together(problem, DType::float64);
  kernels::GsaBackward args = together.backward_args();
  const auto columns = [&](const HostTensor& of, int part) {
    int64_t begin = 0;
    for (int i = 0; i < part; ++i) {
      begin += parts[i].second;
    }
    return of.view().columns(begin, begin + parts[part].second);
  };
  for (int part = 0; part < 4; ++part) {
    const std::vector<double>& values = problem.inputs.at(parts[part].first);
    const Tensor target = columns(rows, part);
    for (int64_t i = 0; i < static_cast<int64_t>(values.size()); ++i) {
      const int64_t count = parts[part].second;
      target.as<double>()[i / count * width + i % count] = values[static_cast<size_t>(i)];
    }
  }
  args.forward.q = columns(rows, 0).reshape(args.forward.q.shape());
  args.forward.k = columns(rows, 1).reshape(args.forward.k.shape());
  args.forward.v = columns(rows, 2).reshape(args.forward.v.shape());
  args.forward.gate_logits = columns(rows, 3).reshape(args.forward.gate_logits.shape());
  args.grad_q = columns(gradients, 0).reshape(args.grad_q.shape());
  args.grad_k = columns(gradients, 1).reshape(args.grad_k.shape());
  args.grad_v = columns(gradients, 2).reshape(args.grad_v.shape());
  args.grad_gate_logits = columns(gradients, 3).reshape(args.grad_gate_logits.shape());
  together.run_forward(Form::chunked, args.forward);
  together.run_backward(Form::chunked, args);
  EXPECT_EQ(together.outputs().at("output"), apart.outputs().at("output"));
  for (int part = 0; part < 4; ++part) {
    const std::vector<double> expected = apart.gradients().at(parts[part].first);
    const Tensor result = columns(gradients, part);
    const int64_t count = parts[part].second;
    for (int64_t i = 0; i < static_cast<int64_t>(expected.size()); ++i) {
      ASSERT_EQ(result.as<double>()[i / count * width + i % count],
                expected[static_cast<size_t>(i)])
          << parts[part].first;
    }
  }
}

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "no std::invalid_argument was thrown";
}

TEST(GsaProjected, RefusesTwoGatesAndTheOthersGradient) {
  const GsaShape shape{{4}, 1, 1, 16, 16, 16, false};
  GsaCase projected(random_projected_problem(shape, 4), DType::float32);
  GsaCase plain(random_problem(shape, 4), DType::float32);
  kernels::GsaForward both = projected.forward_args();
  both.log_alpha = plain.forward_args().log_alpha;
  EXPECT_NE(message_of([&] { both.check(); }).find("one of both"), std::string::npos);
  kernels::GsaForward neither = plain.forward_args();
  neither.log_alpha = {};
  EXPECT_NE(message_of([&] { neither.check(); }).find("one of both"), std::string::npos);
  kernels::GsaBackward other = projected.backward_args();
  other.grad_log_alpha = other.grad_gate_logits;
  EXPECT_NE(message_of([&] { other.check(); }).find("is grad_gate_logits"), std::string::npos);
  kernels::GsaForward no_normalizer = projected.forward_args();
  no_normalizer.gate_normalizer = 0;
  EXPECT_NE(message_of([&] { no_normalizer.check(); }).find("must be positive"), std::string::npos);
}

}  // namespace
}  // namespace gsa::test
