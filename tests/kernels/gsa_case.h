// A problem for gated slot attention, in doubles, and its tensors in a dtype: what the tests of all
// forms are made of.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "kernels/gsa.h"
#include "tests/golden/golden.h"
#include "tests/support/numeric.h"
#include "tests/support/scratch.h"

namespace gsa::test {

enum class Form { definition, recurrent, chunked };
inline constexpr Form all_forms[] = {Form::definition, Form::recurrent, Form::chunked};

inline const char* name_of(Form form) {
  switch (form) {
    case Form::definition:
      return "definition";
    case Form::recurrent:
      return "recurrent";
    default:
      return "chunked";
  }
}

struct GsaShape {
  std::vector<int32_t> lengths;  // of the sequences
  int64_t query_heads = 1;
  int64_t heads = 1;
  int64_t key_dim = 16;
  int64_t value_dim = 16;
  int64_t slots = 16;
  bool states = true;  // initial states, and gradients for the final ones

  int64_t sequences() const { return static_cast<int64_t>(lengths.size()); }
  int64_t tokens() const {
    int64_t tokens = 0;
    for (int32_t length : lengths) {
      tokens += length;
    }
    return tokens;
  }
};

using Arrays = std::map<std::string, std::vector<double>>;

// Inputs by the names of the golden files, without their group: "q", "grad_output", ... With
// "gate_logits" among them in place of "log_alpha", q, k and v are projections.
struct GsaProblem {
  GsaShape shape;
  double scale = 1;
  Arrays inputs;
  double gate_normalizer = 8;
};

// A gate a draw: mild, or anything that a gate can be: open, shut, and in between.
inline double mild_gate(Random& random) {
  return random.uniform(-0.4, 0);
}
inline double harsh_gate(Random& random) {
  constexpr double gates[] = {0, 0, -1e-6, -0.01, -0.5, -3, -15, -1000, -1e4};
  return gates[random.integer(std::size(gates))];
}

inline GsaProblem random_problem(const GsaShape& shape, uint64_t seed,
                                 double (*gate)(Random&) = mild_gate) {
  Random random(seed);
  GsaProblem problem{shape, 0.7, {}};
  const int64_t tokens = shape.tokens();
  const int64_t key_state = shape.query_heads * shape.key_dim * shape.slots;
  const int64_t value_state = shape.query_heads * shape.slots * shape.value_dim;
  const auto draw = [&](const std::string& name, int64_t count) {
    problem.inputs[name] = random.uniform_values(count, -1, 1);
  };
  draw("q", tokens * shape.query_heads * shape.key_dim);
  draw("k", tokens * shape.heads * shape.key_dim);
  draw("v", tokens * shape.heads * shape.value_dim);
  draw("grad_output", tokens * shape.query_heads * shape.value_dim);
  std::vector<double>& log_alpha = problem.inputs["log_alpha"];
  for (int64_t i = 0; i < tokens * shape.heads * shape.slots; ++i) {
    log_alpha.push_back(gate(random));
  }
  if (shape.states) {
    for (const char* prefix : {"initial", "grad_final"}) {
      draw(std::string(prefix) + "_key_state", shape.sequences() * key_state);
      draw(std::string(prefix) + "_value_state", shape.sequences() * value_state);
    }
  }
  return problem;
}

// The same with projections: logits of both signs in place of the gates. The normalizer is small,
// so that gates are shut enough for every input to count.
inline GsaProblem random_projected_problem(const GsaShape& shape, uint64_t seed, double range = 3) {
  GsaProblem problem = random_problem(shape, seed);
  Random random(seed + 1000);
  const auto gates = static_cast<int64_t>(problem.inputs.at("log_alpha").size());
  problem.inputs.erase("log_alpha");
  problem.inputs["gate_logits"] = random.uniform_values(gates, -range, range);
  for (const char* name : {"q", "k", "v"}) {
    for (double& value : problem.inputs.at(name)) {
      value *= range;
    }
  }
  problem.gate_normalizer = 2;
  return problem;
}

inline GsaProblem golden_problem(const GoldenFile& file) {
  const std::vector<int64_t> q = file.read("inputs/q").shape;
  const std::vector<int64_t> v = file.read("inputs/v").shape;
  GsaProblem problem;
  problem.shape.lengths.assign(static_cast<size_t>(q[0]), static_cast<int32_t>(q[1]));
  problem.shape.query_heads = q[2];
  problem.shape.heads = v[2];
  problem.shape.key_dim = q[3];
  problem.shape.value_dim = v[3];
  problem.shape.slots = file.read("inputs/log_alpha").shape[3];
  problem.scale = file.has_attribute("scale") ? file.attribute("scale") : 1;
  for (const std::string& name : file.names("inputs")) {
    problem.inputs[name] = file.read("inputs/" + name).values;
  }
  return problem;
}

// The tensors of a problem, with room for the results.
class GsaCase {
 public:
  // With `padding`, rows of all tensors but the states lie that many elements further apart.
  GsaCase(const GsaProblem& problem, DType dtype, int64_t padding = 0)
      : problem_(problem), dtype_(dtype), padding_(padding) {
    const GsaShape& shape = problem.shape;
    offsets_.push_back(0);
    for (int32_t length : shape.lengths) {
      offsets_.push_back(offsets_.back() + length);
    }
    for (const auto& [name, values] : problem.inputs) {
      tensors_[name] = HostTensor(dtype, storage(name), values, padding_of(name));
    }
    for (const char* name : {"output", "final_key_state", "final_value_state"}) {
      tensors_[name] = HostTensor(dtype, storage(name), padding_of(name));
    }
    for (const char* name : {"q", "k", "v", "log_alpha", "gate_logits"}) {
      if (has(name)) {
        tensors_[std::string("d_") + name] = HostTensor(dtype, storage(name), padding_of(name));
      }
    }
    for (const char* name : {"initial_key_state", "initial_value_state"}) {
      if (has(name)) {
        tensors_[std::string("d_") + name] = HostTensor(dtype, storage(name));
      }
    }
  }

  HostTensor& tensor(const std::string& name) { return tensors_.at(name); }
  bool has(const std::string& name) const { return tensors_.contains(name); }

  kernels::GsaForward forward_args() {
    kernels::GsaForward args;
    args.q = view("q");
    args.k = view("k");
    args.v = view("v");
    args.log_alpha = view("log_alpha");
    args.gate_logits = view("gate_logits");
    args.gate_normalizer = problem_.gate_normalizer;
    args.sequences.host = offsets_;
    args.sequences.offsets = ConstTensor(offsets_.data(), DType::int32, Device::cpu,
                                         {static_cast<int64_t>(offsets_.size())});
    args.scale = problem_.scale;
    args.initial_key_state = view("initial_key_state");
    args.initial_value_state = view("initial_value_state");
    args.output = view("output");
    args.final_key_state = view("final_key_state");
    args.final_value_state = view("final_value_state");
    return args;
  }

  kernels::GsaBackward backward_args() {
    kernels::GsaBackward args;
    args.forward = forward_args();
    args.grad_output = view("grad_output");
    args.grad_final_key_state = view("grad_final_key_state");
    args.grad_final_value_state = view("grad_final_value_state");
    args.grad_q = view("d_q");
    args.grad_k = view("d_k");
    args.grad_v = view("d_v");
    args.grad_log_alpha = view("d_log_alpha");
    args.grad_gate_logits = view("d_gate_logits");
    args.grad_initial_key_state = view("d_initial_key_state");
    args.grad_initial_value_state = view("d_initial_value_state");
    return args;
  }

  void forward(Form form) { run_forward(form, forward_args()); }
  void backward(Form form) { run_backward(form, backward_args()); }

  void run_forward(Form form, const kernels::GsaForward& args) {
    if (form == Form::definition) {
      kernels::gsa_definition_forward(stream_, args);
    } else if (form == Form::recurrent) {
      kernels::gsa_recurrent_forward(stream_, args);
    } else {
      kernels::gsa_chunked_forward(stream_, args);
    }
  }
  void run_backward(Form form, const kernels::GsaBackward& args) {
    if (form == Form::definition) {
      kernels::gsa_definition_backward(stream_, args);
    } else if (form == Form::recurrent) {
      kernels::gsa_recurrent_backward(stream_, args);
    } else {
      kernels::gsa_chunked_backward(stream_, args);
    }
  }

  // The function whose gradients the backward pass gives: all results against what comes in.
  double loss() {
    double sum = dot(tensor("output").values(), tensor("grad_output").values());
    for (const char* name : {"key", "value"}) {
      const std::string state = std::string("final_") + name + "_state";
      if (has("grad_" + state)) {
        sum += dot(tensor(state).values(), tensor("grad_" + state).values());
      }
    }
    return sum;
  }

  // Results by the golden files' names: "output", "final_key_state", ...
  Arrays outputs() const {
    Arrays arrays;
    for (const char* name : {"output", "final_key_state", "final_value_state"}) {
      arrays[name] = tensors_.at(name).values();
    }
    return arrays;
  }
  // Gradients by the names of their inputs.
  Arrays gradients() const {
    Arrays arrays;
    for (const auto& [name, tensor] : tensors_) {
      if (name.starts_with("d_")) {
        arrays[name.substr(2)] = tensor.values();
      }
    }
    return arrays;
  }
  bool gaps_are_untouched() const {
    for (const auto& [name, tensor] : tensors_) {
      if (!tensor.gaps_are_untouched()) {
        return false;
      }
    }
    return true;
  }

 private:
  static bool is_state(const std::string& name) { return name.ends_with("_state"); }
  int64_t padding_of(const std::string& name) const { return is_state(name) ? 0 : padding_; }

  // Shape as the operation sees it.
  Shape shape_of(const std::string& name) const {
    const GsaShape& shape = problem_.shape;
    const std::string of = name.starts_with("d_") ? name.substr(2) : name;
    if (of.ends_with("key_state")) {
      return {shape.sequences(), shape.query_heads, shape.key_dim, shape.slots};
    }
    if (of.ends_with("value_state")) {
      return {shape.sequences(), shape.query_heads, shape.slots, shape.value_dim};
    }
    if (of == "q") {
      return {shape.tokens(), shape.query_heads, shape.key_dim};
    }
    if (of == "k") {
      return {shape.tokens(), shape.heads, shape.key_dim};
    }
    if (of == "v") {
      return {shape.tokens(), shape.heads, shape.value_dim};
    }
    if (of == "log_alpha" || of == "gate_logits") {
      return {shape.tokens(), shape.heads, shape.slots};
    }
    return {shape.tokens(), shape.query_heads, shape.value_dim};
  }
  // Shape as it is stored: rank 2 where rows may lie apart.
  Shape storage(const std::string& name) const {
    const Shape shape = shape_of(name);
    return is_state(name) ? shape : Shape{shape[0], shape.row_count()};
  }
  Tensor view(const std::string& name) const {
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? Tensor() : found->second.view().reshape(shape_of(name));
  }

  GsaProblem problem_;
  DType dtype_;
  int64_t padding_;
  std::vector<int32_t> offsets_;
  std::map<std::string, HostTensor> tensors_;
  TestStream stream_;
};

}  // namespace gsa::test
