#include "tests/kernels/cuda/gsa_cuda_case.h"

#include <cstdio>
#include <cstring>
#include <map>

#include "tests/kernels/cuda/device_tensor.h"

namespace gsa::test {
namespace {

bool is_state(const std::string& name) {
  return name.ends_with("_state");
}

Shape shape_of(const GsaShape& shape, const std::string& name) {
  const int64_t tokens = shape.tokens();
  if (name.ends_with("key_state")) {
    return {shape.sequences(), shape.query_heads, shape.key_dim, shape.slots};
  }
  if (name.ends_with("value_state")) {
    return {shape.sequences(), shape.query_heads, shape.slots, shape.value_dim};
  }
  if (name == "q") {
    return {tokens, shape.query_heads, shape.key_dim};
  }
  if (name == "k" || name == "v") {
    return {tokens, shape.heads, name == "k" ? shape.key_dim : shape.value_dim};
  }
  if (name == "log_alpha" || name == "gate_logits") {
    return {tokens, shape.heads, shape.slots};
  }
  return {tokens, shape.query_heads, shape.value_dim};
}

// q, k, v, output and their gradients are of the call's dtype, all else float32.
DType dtype_of(DType dtype, const std::string& name) {
  return name == "log_alpha" || is_state(name) ? DType::float32 : dtype;
}

// One problem on the device.
class CudaCase {
 public:
  CudaCase(const GsaProblem& problem, DType dtype, const CudaOptions& options)
      : problem_(problem), dtype_(dtype), options_(options), scratch_(stream_) {
    stream_.set_scratch(&scratch_);
    offsets_.push_back(0);
    for (int32_t length : problem.shape.lengths) {
      offsets_.push_back(offsets_.back() + length);
    }
    const Shape shape{static_cast<int64_t>(offsets_.size())};
    device_offsets_ = Buffer(Device::cuda, offsets_.size() * sizeof(int32_t));
    copy(stream_, ConstTensor(offsets_.data(), DType::int32, Device::cpu, shape),
         device_offsets_.tensor(DType::int32, shape));
    stream_.synchronize();
    for (const auto& [name, values] : problem.inputs) {
      make(name, name, values);
    }
    for (const char* name : {"output", "final_key_state", "final_value_state"}) {
      make(name, name, {});
    }
    for (const std::string name : {"q", "k", "v", "log_alpha", "gate_logits"}) {
      if (tensors_.contains(name)) {
        make("d_" + name, name, {});
      }
    }
    for (const std::string name : {"initial_key_state", "initial_value_state"}) {
      if (tensors_.contains(name) && options.wants_state_gradients) {
        make("d_" + name, name, {});
      }
    }
  }

  CudaResults run() {
    CudaResults results;
    kernels::GsaForward forward = forward_args();
    const size_t kept = kernels::gsa_chunked_saved_bytes(forward);
    if (options_.keeps && options_.form == Form::chunked && kept > 0) {
      saved_ = marked_buffer(stream_, kept);
      forward.saved = saved_.tensor(DType::byte, {static_cast<int64_t>(kept)});
    }
    if (options_.form == Form::recurrent) {
      kernels::gsa_recurrent_forward(stream_, forward);
    } else {
      kernels::gsa_chunked_forward(stream_, forward);
    }
    for (const std::string name : {"output", "final_key_state", "final_value_state"}) {
      const bool moved = options_.states_in_place && is_state(name);
      read(moved ? "initial" + name.substr(std::strlen("final")) : name, name, results.outputs,
           results);
    }
    if (options_.states_in_place) {
      return results;  // the initial states are gone
    }
    const kernels::GsaBackward backward = backward_args(forward);
    if (options_.form == Form::recurrent) {
      kernels::gsa_recurrent_backward(stream_, backward);
    } else {
      kernels::gsa_chunked_backward(stream_, backward);
    }
    for (const auto& [name, tensor] : tensors_) {
      if (name.starts_with("d_")) {
        read(name, name.substr(2), results.gradients, results);
      }
    }
    return results;
  }

 private:
  void make(const std::string& name, const std::string& like, const std::vector<double>& values) {
    tensors_.try_emplace(name, stream_, dtype_of(dtype_, like), shape_of(problem_.shape, like),
                         is_state(like) ? 0 : options_.padding, values);
  }
  void read(const std::string& name, const std::string& as, Arrays& arrays, CudaResults& results) {
    arrays[as] = tensors_.at(name).values(stream_, results.gaps_are_untouched);
  }
  Tensor view(const std::string& name) const {
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? Tensor() : found->second.view();
  }

  kernels::GsaForward forward_args() const {
    kernels::GsaForward args;
    args.q = view("q");
    args.k = view("k");
    args.v = view("v");
    args.log_alpha = view("log_alpha");
    args.gate_logits = view("gate_logits");
    args.gate_normalizer = problem_.gate_normalizer;
    args.sequences.host = offsets_;
    args.sequences.offsets =
        device_offsets_.tensor(DType::int32, {static_cast<int64_t>(offsets_.size())});
    args.scale = problem_.scale;
    args.initial_key_state = view("initial_key_state");
    args.initial_value_state = view("initial_value_state");
    args.output = view("output");
    const std::string to = options_.states_in_place ? "initial" : "final";
    args.final_key_state = view(to + "_key_state");
    args.final_value_state = view(to + "_value_state");
    return args;
  }
  kernels::GsaBackward backward_args(const kernels::GsaForward& forward) const {
    kernels::GsaBackward args;
    args.forward = forward;
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

  GsaProblem problem_;
  DType dtype_;
  CudaOptions options_;
  Stream stream_{Device::cuda};
  DeviceScratch scratch_;
  std::vector<int32_t> offsets_;
  Buffer device_offsets_;
  Buffer saved_;
  std::map<std::string, DeviceTensor> tensors_;
};

std::string text_of(const GsaShape& shape) {
  std::string text = "H" + std::to_string(shape.query_heads) + "/" + std::to_string(shape.heads) +
                     " K" + std::to_string(shape.key_dim) + " V" + std::to_string(shape.value_dim) +
                     " M" + std::to_string(shape.slots) + " T";
  for (int32_t length : shape.lengths) {
    text += " " + std::to_string(length);
  }
  return text + (shape.states ? " states" : "");
}

}  // namespace

GsaProblem rounded(GsaProblem problem, DType dtype) {
  for (auto& [name, values] : problem.inputs) {
    for (double& value : values) {
      value = rounded_to(dtype_of(dtype, name), value);
    }
  }
  return problem;
}

CudaResults run_on_cuda(const GsaProblem& problem, DType dtype, const CudaOptions& options) {
  return CudaCase(problem, dtype, options).run();
}

void expect_close(const Arrays& results, const Arrays& expected, double tolerance,
                  std::string& line) {
  for (const auto& [name, values] : results) {
    const double error = relative_error(values, expected.at(name));
    EXPECT_LE(error, tolerance) << name;
    char text[64];
    std::snprintf(text, sizeof(text), " %s %.1e", name.c_str(), error);
    line += text;
  }
}

void expect_as_defined(const GsaProblem& problem, DType dtype, const CudaOptions& options) {
  const bool is_float = dtype == DType::float32;
  const GsaProblem seen = rounded(problem, dtype);
  GsaCase reference(seen, DType::float64);
  reference.forward(Form::definition);
  reference.backward(Form::definition);
  const CudaResults results = run_on_cuda(seen, dtype, options);
  std::string line = name_of(options.form);
  line += std::string(" ") + name_of(dtype);
  line += " " + text_of(problem.shape) + ":";
  SCOPED_TRACE(line);
  expect_close(results.outputs, reference.outputs(),
               is_float ? float_forward_tolerance : bfloat16_tolerance, line);
  expect_close(results.gradients, reference.gradients(),
               is_float ? float_backward_tolerance : bfloat16_tolerance, line);
  EXPECT_TRUE(results.gaps_are_untouched);
  std::printf("  %s\n", line.c_str());
  const CudaResults again = run_on_cuda(seen, dtype, options);
  EXPECT_EQ(results.outputs, again.outputs) << "the second run differs";
  EXPECT_EQ(results.gradients, again.gradients) << "the second run differs";
}

void expect_same_bits_without_kept(const GsaProblem& problem) {
  const GsaProblem seen = rounded(problem, DType::bfloat16);
  const CudaResults kept = run_on_cuda(seen, DType::bfloat16);
  const CudaResults computed_again = run_on_cuda(seen, DType::bfloat16, {.keeps = false});
  EXPECT_EQ(kept.outputs, computed_again.outputs);
  EXPECT_EQ(kept.gradients, computed_again.gradients);
}

}  // namespace gsa::test
