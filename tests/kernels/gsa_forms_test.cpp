// The forms of gated slot attention hold together: definition, recurrent and chunked agree on any
// lengths, groups, dimensions and gates.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/kernels/gsa_case.h"

namespace gsa::test {
namespace {

// Rounding over sums of up to some thousand terms, both passes.
constexpr double double_form_tolerance = 1e-11;
constexpr double float_forward_tolerance = 1e-5;
constexpr double float_backward_tolerance = 1e-4;

double norm(const std::vector<double>& values) {
  return std::sqrt(dot(values, values));
}

// An array that is zero but for rounding (where all gates are shut, all slots hold the same, and
// the gradients of what chooses among them cancel) has no relative error: it must be as small
// beside the largest of the arrays.
void expect_close(const Arrays& results, const Arrays& expected, double tolerance) {
  constexpr double rounding = 1e-14;
  ASSERT_EQ(results.size(), expected.size());
  double largest = 0;
  for (const auto& [name, values] : expected) {
    largest = std::max(largest, norm(values));
  }
  for (const auto& [name, values] : expected) {
    if (norm(values) <= rounding * largest) {
      EXPECT_LE(norm(results.at(name)), tolerance * largest) << name;
    } else {
      EXPECT_LE(relative_error(results.at(name), values), tolerance) << name;
    }
  }
}

void expect_equal(const Arrays& results, const Arrays& expected) {
  for (const auto& [name, values] : expected) {
    EXPECT_EQ(results.at(name), values) << name;
  }
}

void expect_forms_agree(const GsaProblem& problem, int64_t padding = 0) {
  GsaCase definition(problem, DType::float64);
  definition.forward(Form::definition);
  definition.backward(Form::definition);
  for (Form form : {Form::recurrent, Form::chunked}) {
    SCOPED_TRACE(name_of(form));
    GsaCase in_double(problem, DType::float64, padding);
    in_double.forward(form);
    in_double.backward(form);
    expect_close(in_double.outputs(), definition.outputs(), double_form_tolerance);
    expect_close(in_double.gradients(), definition.gradients(), double_form_tolerance);
    EXPECT_TRUE(in_double.gaps_are_untouched());
    GsaCase in_float(problem, DType::float32, padding);
    in_float.forward(form);
    in_float.backward(form);
    expect_close(in_float.outputs(), definition.outputs(), float_forward_tolerance);
    expect_close(in_float.gradients(), definition.gradients(), float_backward_tolerance);
    EXPECT_TRUE(in_float.gaps_are_untouched());
  }
}

TEST(GsaForms, AgreeOnAnyLength) {
  for (int32_t length : {1, 2, 15, 16, 17, 63, 64, 65, 128, 200}) {
    SCOPED_TRACE(length);
    expect_forms_agree(random_problem({{length}, 2, 2, 32, 48, 16}, 1));
  }
}

TEST(GsaForms, AgreeOnPackedSequencesOfAnyLengths) {
  expect_forms_agree(random_problem({{5, 0, 64, 1, 131, 16, 0}, 2, 1, 16, 32, 16}, 2));
  expect_forms_agree(random_problem({{0, 33, 80}, 2, 2, 32, 16, 32}, 3));
}

TEST(GsaForms, AgreeOnGroupedHeads) {
  for (bool states : {false, true}) {
    SCOPED_TRACE(states);
    GsaShape shape{{70, 21}, 6, 2, 32, 16, 16, states};
    expect_forms_agree(random_problem(shape, 4));
  }
}

TEST(GsaForms, AgreeWithoutStates) {
  GsaShape shape{{100, 100}, 2, 2, 32, 32, 16, false};
  expect_forms_agree(random_problem(shape, 5));
}

TEST(GsaForms, AgreeOnAnyDimensions) {
  expect_forms_agree(random_problem({{37}, 1, 1, 640, 16, 128}, 6));
  expect_forms_agree(random_problem({{37}, 1, 1, 16, 640, 16}, 7));
  expect_forms_agree(random_problem({{66}, 1, 1, 128, 64, 64}, 8));
  expect_forms_agree(random_problem({{66}, 2, 1, 7, 13, 5}, 9));
}

TEST(GsaForms, AgreeOnStridedRows) {
  constexpr int64_t padding = 24;
  expect_forms_agree(random_problem({{70, 9}, 4, 2, 32, 16, 16}, 10), padding);
}

TEST(GsaForms, AgreeOnHarshGates) {
  for (bool states : {false, true}) {
    SCOPED_TRACE(states);
    GsaShape shape{{150, 40}, 4, 2, 32, 32, 32, states};
    expect_forms_agree(random_problem(shape, 11, harsh_gate));
  }
}

double shut(Random& /*random*/) {
  return -1e4;
}
double open(Random& /*random*/) {
  return 0;
}
double minus_infinity(Random& random) {
  return random.integer(2) == 0 ? -std::numeric_limits<double>::infinity() : -0.1;
}

TEST(GsaForms, AgreeWhereAllGatesAreShutOrOpen) {
  for (auto* gate : {shut, open, minus_infinity}) {
    expect_forms_agree(random_problem({{90}, 2, 2, 16, 16, 16}, 12, gate));
  }
}

TEST(GsaForms, PackedSequencesAreSeparateCallsBitForBit) {
  const std::vector<int32_t> lengths = {65, 0, 16, 3};
  const GsaProblem packed = random_problem({lengths, 2, 1, 32, 16, 16}, 13);
  for (Form form : {Form::recurrent, Form::chunked}) {
    SCOPED_TRACE(name_of(form));
    GsaCase together(packed, DType::float32);
    together.forward(form);
    together.backward(form);
    const Arrays all_outputs = together.outputs();
    const Arrays all_gradients = together.gradients();
    Arrays outputs;
    Arrays gradients;
    int64_t first = 0;
    for (size_t i = 0; i < lengths.size(); ++i) {
      if (lengths[i] > 0) {
        GsaProblem one = packed;
        one.shape.lengths.assign(1, lengths[i]);
        for (auto& [name, values] : one.inputs) {
          const bool is_state = name.ends_with("_state");
          const auto row = static_cast<int64_t>(values.size()) /
                           (is_state ? packed.shape.sequences() : packed.shape.tokens());
          const int64_t begin = (is_state ? static_cast<int64_t>(i) : first) * row;
          const int64_t count = (is_state ? 1 : lengths[i]) * row;
          values = {values.begin() + begin, values.begin() + begin + count};
        }
        GsaCase separate(one, DType::float32);
        separate.forward(form);
        separate.backward(form);
        outputs = separate.outputs();
        gradients = separate.gradients();
        const auto expect_part = [&](const Arrays& all, const Arrays& part) {
          for (const auto& [name, values] : part) {
            const bool is_state = name.ends_with("_state");
            const auto count = static_cast<int64_t>(values.size());
            const int64_t begin =
                is_state ? static_cast<int64_t>(i) * count : first * (count / lengths[i]);
            const std::vector<double> piece(all.at(name).begin() + begin,
                                            all.at(name).begin() + begin + count);
            EXPECT_EQ(piece, values) << name << " of sequence " << i;
          }
        };
        expect_part(all_outputs, outputs);
        expect_part(all_gradients, gradients);
      }
      first += lengths[i];
    }
  }
}

TEST(GsaForms, ThreadsDoNotChangeABit) {
  const GsaProblem problem = random_problem({{70, 5, 33, 64}, 4, 2, 32, 32, 16}, 14);
  for (Form form : {Form::recurrent, Form::chunked}) {
    GsaCase one(problem, DType::float32);
    {
      const ThreadCount threads(1);
      one.forward(form);
      one.backward(form);
    }
    for (int count : {2, 5}) {
      const ThreadCount threads(count);
      GsaCase many(problem, DType::float32);
      many.forward(form);
      many.backward(form);
      expect_equal(many.outputs(), one.outputs());
      expect_equal(many.gradients(), one.gradients());
    }
  }
}

TEST(GsaForms, OneTokenAtATimeIsOnePass) {
  const GsaShape shape{{40}, 2, 1, 32, 16, 16};
  const GsaProblem problem = random_problem(shape, 15);
  GsaCase whole(problem, DType::float64);
  whole.forward(Form::chunked);
  GsaCase steps(problem, DType::float64);
  kernels::GsaForward args = steps.forward_args();
  // The final states take the place of the initial ones: generation keeps one state a sequence.
  args.final_key_state = steps.tensor("initial_key_state");
  args.final_value_state = steps.tensor("initial_value_state");
  const std::vector<int32_t> offsets = {0, 1};
  for (int64_t t = 0; t < shape.tokens(); ++t) {
    kernels::GsaForward step = args;
    step.q = args.q.rows(t, t + 1);
    step.k = args.k.rows(t, t + 1);
    step.v = args.v.rows(t, t + 1);
    step.log_alpha = args.log_alpha.rows(t, t + 1);
    step.output = args.output.rows(t, t + 1);
    step.sequences.host = offsets;
    step.sequences.offsets = ConstTensor(offsets.data(), DType::int32, Device::cpu, {2});
    steps.run_forward(Form::recurrent, step);
  }
  const Arrays expected = whole.outputs();
  EXPECT_LE(relative_error(steps.tensor("output").values(), expected.at("output")),
            double_form_tolerance);
  EXPECT_LE(
      relative_error(steps.tensor("initial_key_state").values(), expected.at("final_key_state")),
      double_form_tolerance);
  EXPECT_LE(relative_error(steps.tensor("initial_value_state").values(),
                           expected.at("final_value_state")),
            double_form_tolerance);
}

TEST(GsaForms, FinalStatesMayTakeThePlaceOfTheInitialOnes) {
  const GsaProblem problem = random_problem({{70, 0, 9}, 4, 2, 32, 16, 16}, 16);
  for (Form form : all_forms) {
    SCOPED_TRACE(name_of(form));
    GsaCase apart(problem, DType::float32);
    apart.forward(form);
    GsaCase in_place(problem, DType::float32);
    kernels::GsaForward args = in_place.forward_args();
    args.final_key_state = in_place.tensor("initial_key_state");
    args.final_value_state = in_place.tensor("initial_value_state");
    in_place.run_forward(form, args);
    const Arrays expected = apart.outputs();
    EXPECT_EQ(in_place.tensor("output").values(), expected.at("output"));
    EXPECT_EQ(in_place.tensor("initial_key_state").values(), expected.at("final_key_state"));
    EXPECT_EQ(in_place.tensor("initial_value_state").values(), expected.at("final_value_state"));
  }
}

TEST(GsaForms, WhatTheForwardPassSavedIsWhatTheBackwardPassMakesAgain) {
  for (bool states : {false, true}) {
    const GsaProblem problem = random_problem({{130, 20}, 4, 2, 32, 16, 16, states}, 17);
    GsaCase made_again(problem, DType::float32);
    made_again.backward(Form::chunked);

    GsaCase saved(problem, DType::float32);
    kernels::GsaBackward args = saved.backward_args();
    const auto bytes = static_cast<int64_t>(kernels::gsa_chunked_saved_bytes(args.forward));
    const Buffer memory(Device::cpu, static_cast<size_t>(bytes));
    args.forward.saved = memory.tensor(DType::byte, {bytes});
    saved.run_forward(Form::chunked, args.forward);
    saved.run_backward(Form::chunked, args);
    expect_equal(saved.gradients(), made_again.gradients());
  }
}

TEST(GsaForms, GradientsOfInitialStatesMayBeWantedWhereThereAreNone) {
  GsaProblem problem = random_problem({{70, 0, 20}, 4, 2, 32, 16, 16}, 18);
  for (const char* name : {"initial_key_state", "initial_value_state"}) {
    std::fill(problem.inputs[name].begin(), problem.inputs[name].end(), 0.0);
  }
  for (Form form : {Form::recurrent, Form::chunked}) {
    SCOPED_TRACE(name_of(form));
    GsaCase zero(problem, DType::float64);
    zero.backward(Form::definition);
    GsaCase absent(problem, DType::float64);
    kernels::GsaBackward args = absent.backward_args();
    args.forward.initial_key_state = {};
    args.forward.initial_value_state = {};
    absent.run_backward(form, args);
    expect_close(absent.gradients(), zero.gradients(), double_form_tolerance);
  }
}

TEST(GsaForms, FinalStatesNeedNotBeWanted) {
  const GsaProblem problem = random_problem({{70, 20}, 2, 1, 32, 16, 16}, 19);
  for (Form form : all_forms) {
    SCOPED_TRACE(name_of(form));
    GsaCase with(problem, DType::float32);
    with.forward(form);
    GsaCase without(problem, DType::float32);
    kernels::GsaForward args = without.forward_args();
    args.final_key_state = {};
    args.final_value_state = {};
    without.run_forward(form, args);
    EXPECT_EQ(without.outputs().at("output"), with.outputs().at("output"));
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

TEST(GsaForms, RefuseBfloat16OnTheCpu) {
  const GsaProblem problem = random_problem({{4}, 1, 1, 16, 16, 16, false}, 20);
  GsaCase test_case(problem, DType::float32);
  kernels::GsaForward args = test_case.forward_args();
  const HostTensor q(DType::bfloat16, args.q.shape());
  const HostTensor output(DType::bfloat16, args.output.shape());
  args.q = q;
  args.k = q;
  args.v = q;
  args.output = output;
  for (Form form : all_forms) {
    const std::string message = message_of([&] { test_case.run_forward(form, args); });
    EXPECT_NE(message.find("not in bfloat16, which computes on CUDA only"), std::string::npos)
        << message;
  }
}

TEST(GsaForms, RefuseTooLittleSavedMemory) {
  GsaCase test_case(random_problem({{4}, 1, 1, 16, 16, 16}, 21), DType::float32);
  kernels::GsaForward args = test_case.forward_args();
  const Buffer memory(Device::cpu, 1);
  args.saved = memory.tensor(DType::byte, {1});
  const std::string message = message_of([&] { test_case.run_forward(Form::chunked, args); });
  EXPECT_NE(message.find("saved must hold gsa_chunked_saved_bytes"), std::string::npos) << message;
}

TEST(GsaForms, TheDefinitionRefusesOtherDevices) {
  GsaCase test_case(random_problem({{4}, 1, 1, 16, 16, 16}, 22), DType::float32);
  kernels::GsaForward args = test_case.forward_args();
  args.q = ConstTensor(args.q.data(), DType::float32, Device::cuda, args.q.shape());
  const std::string message = message_of([&] { test_case.run_forward(Form::definition, args); });
  EXPECT_NE(message.find("on the CPU only"), std::string::npos) << message;
}

}  // namespace
}  // namespace gsa::test
