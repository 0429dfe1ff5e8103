// Gated slot attention on CUDA against the golden files and against its definition in float64 on
// the CPU, from the same rounded inputs.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <map>

#include "kernels/cpu/rounding.h"
#include "tests/kernels/gsa_case.h"

namespace gsa::test {
namespace {

// What is asked of float32 against the golden values, as relative norms.
constexpr double float_forward_tolerance = 1e-5;
constexpr double float_backward_tolerance = 1e-4;
// bfloat16 keeps 8 bits, and its products are summed in float32.
constexpr double bfloat16_tolerance = 2e-2;

// Device memory for operations, each loan a buffer of its own, exactly as large as asked and full
// of NaN, so that the memory checker sees accesses past its end and the results what was not
// written.
class DeviceScratch : public ScratchMemory {
 public:
  explicit DeviceScratch(Stream& stream) : stream_(stream) {}
  std::byte* lend(size_t bytes) override;
  void give_back(size_t /*bytes*/) override {
    stream_.synchronize();
    loans_.pop_back();
  }

 private:
  Stream& stream_;
  std::vector<Buffer> loans_;
};

constexpr auto mark = std::byte{0xff};  // NaN in every floating-point type

Buffer marked_buffer(Stream& stream, size_t bytes) {
  Buffer buffer(Device::cuda, bytes);
  const std::vector<std::byte> marks(bytes, mark);
  const Shape shape{static_cast<int64_t>(bytes)};
  copy(stream, ConstTensor(marks.data(), DType::byte, Device::cpu, shape),
       buffer.tensor(DType::byte, shape));
  stream.synchronize();
  return buffer;
}

std::byte* DeviceScratch::lend(size_t bytes) {
  loans_.push_back(marked_buffer(stream_, bytes));
  return loans_.back().data();
}

double rounded_to(DType dtype, double value) {
  if (dtype == DType::bfloat16) {
    return kernels::cpu::widened(kernels::cpu::to_bfloat16(value));
  }
  return dtype == DType::float32 ? static_cast<float>(value) : value;
}

void put(std::byte* at, DType dtype, double value) {
  if (dtype == DType::bfloat16) {
    const bfloat16_t element = kernels::cpu::to_bfloat16(value);
    std::memcpy(at, &element, sizeof(element));
  } else {
    const auto element = static_cast<float>(value);
    std::memcpy(at, &element, sizeof(element));
  }
}

double get(const std::byte* at, DType dtype) {
  if (dtype == DType::bfloat16) {
    bfloat16_t element{};
    std::memcpy(&element, at, sizeof(element));
    return kernels::cpu::widened(element);
  }
  float element = 0;
  std::memcpy(&element, at, sizeof(element));
  return element;
}

// A tensor in device memory whose rows may lie apart, with marks between them.
class DeviceTensor {
 public:
  DeviceTensor(Stream& stream, DType dtype, Shape shape, int64_t padding,
               const std::vector<double>& values = {})
      : shape_(shape),
        columns_(shape.row_count()),
        stride_(columns_ + padding),
        dtype_(dtype),
        buffer_(marked_buffer(stream, size_t(shape[0] * stride_) * size_of(dtype))) {
    std::vector<std::byte> host(buffer_.bytes(), mark);
    for (size_t i = 0; i < values.size(); ++i) {
      put(host.data() + offset_of(static_cast<int64_t>(i)), dtype, values[i]);
    }
    copy(stream, ConstTensor(host.data(), DType::byte, Device::cpu, bytes_shape()), bytes_view());
    stream.synchronize();
  }

  Tensor view() const {
    return buffer_.tensor(dtype_, {shape_[0], stride_}).columns(0, columns_).reshape(shape_);
  }
  // The elements, and whether the gaps are as they were.
  std::vector<double> values(Stream& stream, bool& gaps_are_untouched) const {
    std::vector<std::byte> host(buffer_.bytes());
    copy(stream, bytes_view(), Tensor(host.data(), DType::byte, Device::cpu, bytes_shape()));
    stream.synchronize();
    std::vector<double> values;
    for (int64_t i = 0; i < shape_.count(); ++i) {
      values.push_back(get(host.data() + offset_of(i), dtype_));
    }
    for (int64_t row = 0; row < shape_[0]; ++row) {
      for (int64_t column = columns_; column < stride_; ++column) {
        const size_t at = size_t(row * stride_ + column) * size_of(dtype_);
        gaps_are_untouched = gaps_are_untouched && host[at] == mark;
      }
    }
    return values;
  }

 private:
  size_t offset_of(int64_t index) const {
    return size_t(index / columns_ * stride_ + index % columns_) * size_of(dtype_);
  }
  Shape bytes_shape() const { return {static_cast<int64_t>(buffer_.bytes())}; }
  Tensor bytes_view() const { return buffer_.tensor(DType::byte, bytes_shape()); }

  Shape shape_;
  int64_t columns_;
  int64_t stride_;
  DType dtype_;
  Buffer buffer_;
};

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

// The problem as the device sees it.
GsaProblem rounded(GsaProblem problem, DType dtype) {
  for (auto& [name, values] : problem.inputs) {
    for (double& value : values) {
      value = rounded_to(dtype_of(dtype, name), value);
    }
  }
  return problem;
}

struct Options {
  Form form = Form::chunked;
  int64_t padding = 0;
  bool keeps = true;             // memory for what the forward pass may keep
  bool states_in_place = false;  // final states over the initial ones
  bool wants_state_gradients = true;
};

struct Results {
  Arrays outputs;
  Arrays gradients;
  bool gaps_are_untouched = true;
};

// One problem on the device.
class CudaCase {
 public:
  CudaCase(const GsaProblem& problem, DType dtype, const Options& options)
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

  Results run() {
    Results results;
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
  void read(const std::string& name, const std::string& as, Arrays& arrays, Results& results) {
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
  Options options_;
  Stream stream_{Device::cuda};
  DeviceScratch scratch_;
  std::vector<int32_t> offsets_;
  Buffer device_offsets_;
  Buffer saved_;
  std::map<std::string, DeviceTensor> tensors_;
};

Results run_on_cuda(const GsaProblem& problem, DType dtype, const Options& options = {}) {
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

std::string text_of(const GsaShape& shape) {
  std::string text = "H" + std::to_string(shape.query_heads) + "/" + std::to_string(shape.heads) +
                     " K" + std::to_string(shape.key_dim) + " V" + std::to_string(shape.value_dim) +
                     " M" + std::to_string(shape.slots) + " T";
  for (int32_t length : shape.lengths) {
    text += " " + std::to_string(length);
  }
  return text + (shape.states ? " states" : "");
}

// Expects of CUDA what the definition gives in float64 from the same inputs, and the same bits when
// it runs again.
void expect_as_defined(const GsaProblem& problem, DType dtype, const Options& options = {}) {
  const bool is_float = dtype == DType::float32;
  const GsaProblem seen = rounded(problem, dtype);
  GsaCase reference(seen, DType::float64);
  reference.forward(Form::definition);
  reference.backward(Form::definition);
  const Results results = run_on_cuda(seen, dtype, options);
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
  const Results again = run_on_cuda(seen, dtype, options);
  EXPECT_EQ(results.outputs, again.outputs) << "the second run differs";
  EXPECT_EQ(results.gradients, again.gradients) << "the second run differs";
}

class GsaCuda : public testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) {
      GTEST_SKIP() << "no CUDA device on this machine: nothing to run";
    }
  }
};

Arrays golden_arrays(const GoldenFile& file, const std::string& group) {
  Arrays arrays;
  for (const std::string& name : file.names(group)) {
    arrays[name] = file.read(group + "/" + name).values;
  }
  return arrays;
}

void expect_golden_in_float(Form form) {
  for (const auto& path : golden_files("gsa_op_")) {
    SCOPED_TRACE(path.string());
    const GoldenFile file(path);
    const GsaProblem problem = golden_problem(file);
    const Results results = run_on_cuda(problem, DType::float32, {.form = form});
    std::string line = name_of(form);
    line += " " + path.filename().string() + ":";
    expect_close(results.outputs, golden_arrays(file, "outputs"), float_forward_tolerance, line);
    expect_close(results.gradients, golden_arrays(file, "grads"), float_backward_tolerance, line);
    std::printf("  %s\n", line.c_str());
  }
}

TEST_F(GsaCuda, ChunkedInFloatMeetsTheGoldenValues) {
  expect_golden_in_float(Form::chunked);
}

TEST_F(GsaCuda, RecurrentInFloatMeetsTheGoldenValues) {
  expect_golden_in_float(Form::recurrent);
}

TEST_F(GsaCuda, InBfloat16IsAsDefinedOnTheGoldenInputs) {
  for (const auto& path : golden_files("gsa_op_")) {
    SCOPED_TRACE(path.string());
    const GoldenFile file(path);
    for (const Form form : {Form::chunked, Form::recurrent}) {
      expect_as_defined(golden_problem(file), DType::bfloat16, {.form = form});
    }
  }
}

// Sequences of any lengths, none among them; dimensions and slots that fill tiles and that do not.
const GsaShape shapes[] = {
    {{1}, 1, 1, 32, 32, 16, true},
    {{64}, 1, 1, 64, 64, 64, false},
    {{63, 0, 65, 1}, 2, 2, 48, 80, 32, true},
    {{200}, 4, 4, 128, 128, 64, false},
    {{130, 70}, 4, 2, 64, 96, 64, false},
    {{129, 0, 3}, 6, 2, 96, 64, 48, true},
    {{100, 28}, 4, 1, 128, 128, 64, true},
    {{150}, 2, 1, 64, 64, 128, true},
    {{70, 130}, 1, 1, 80, 32, 112, false},
    {{192}, 1, 1, 512, 512, 64, false},
    {{90}, 1, 1, 640, 640, 128, true},
};

TEST_F(GsaCuda, ChunkedIsAsDefined) {
  uint64_t seed = 1;
  for (const GsaShape& shape : shapes) {
    expect_as_defined(random_problem(shape, seed++), DType::bfloat16);
  }
}

// Sequences that are cut into segments backward, with dimensions that fill slices and that do not.
const GsaShape long_shapes[] = {
    {{1100, 0, 30, 500}, 2, 1, 64, 128, 64, true},
    {{1100}, 4, 2, 64, 32, 48, false},
    {{420}, 2, 2, 320, 192, 64, true},
    {{700}, 1, 1, 128, 80, 128, true},
};

TEST_F(GsaCuda, ChunkedIsAsDefinedInSegments) {
  uint64_t seed = 51;
  for (const GsaShape& shape : long_shapes) {
    expect_as_defined(random_problem(shape, seed++), DType::bfloat16);
  }
}

TEST_F(GsaCuda, RecurrentIsAsDefined) {
  uint64_t seed = 101;
  for (const GsaShape& shape : shapes) {
    expect_as_defined(random_problem(shape, seed++), DType::bfloat16, {.form = Form::recurrent});
    expect_as_defined(random_problem(shape, seed++), DType::float32, {.form = Form::recurrent});
  }
}

// One slot in `every` fades steeply, some by more than a float's range within a chunk.
GsaProblem with_steep_slots(const GsaShape& shape, uint64_t seed, int64_t every) {
  GsaProblem problem = random_problem(shape, seed);
  Random random(seed + 1);
  std::vector<double>& log_alpha = problem.inputs.at("log_alpha");
  for (size_t i = 0; i < log_alpha.size(); ++i) {
    if (static_cast<int64_t>(i) % shape.slots % every == 0) {
      log_alpha[i] = random.uniform(-15, 0);
    }
  }
  return problem;
}

TEST_F(GsaCuda, ChunkedIsAsDefinedWithSteepSlots) {
  for (const int64_t every : {1, 3, 16}) {
    expect_as_defined(with_steep_slots({{150, 64}, 2, 2, 64, 64, 64, true}, 7, every),
                      DType::bfloat16);
    expect_as_defined(with_steep_slots({{140}, 4, 2, 96, 48, 112, true}, 8, every),
                      DType::bfloat16);
  }
}

TEST_F(GsaCuda, ChunkedIsAsDefinedWithHarshGates) {
  expect_as_defined(random_problem({{150, 64}, 2, 1, 64, 64, 64, true}, 9, harsh_gate),
                    DType::bfloat16);
}

TEST_F(GsaCuda, FloatIsAsDefinedWithHarshGates) {
  expect_as_defined(random_problem({{150, 64}, 2, 1, 64, 64, 64, true}, 9, harsh_gate),
                    DType::float32);
}

TEST_F(GsaCuda, RowsMayLieApart) {
  constexpr int64_t padding = 24;
  const GsaProblem problem = random_problem({{70, 65}, 4, 2, 48, 64, 32, true}, 11);
  for (const Form form : {Form::chunked, Form::recurrent}) {
    expect_as_defined(problem, DType::bfloat16, {.form = form, .padding = padding});
  }
}

TEST_F(GsaCuda, WithoutKeptStatesGivesTheSameBits) {
  const GsaProblem problem =
      rounded(random_problem({{170, 40}, 4, 2, 64, 128, 64, false}, 12), DType::bfloat16);
  const Results kept = run_on_cuda(problem, DType::bfloat16);
  const Results computed_again = run_on_cuda(problem, DType::bfloat16, {.keeps = false});
  EXPECT_EQ(kept.outputs, computed_again.outputs);
  EXPECT_EQ(kept.gradients, computed_again.gradients);
}

TEST_F(GsaCuda, FinalStatesMayReplaceTheInitialOnes) {
  const GsaProblem problem =
      rounded(random_problem({{70, 0, 1}, 4, 2, 64, 48, 32, true}, 13), DType::bfloat16);
  for (const Form form : {Form::chunked, Form::recurrent}) {
    const Results apart = run_on_cuda(problem, DType::bfloat16, {.form = form});
    const Results in_place =
        run_on_cuda(problem, DType::bfloat16, {.form = form, .states_in_place = true});
    EXPECT_EQ(apart.outputs, in_place.outputs) << name_of(form);
  }
}

TEST_F(GsaCuda, GradientsOfInitialStatesMayBeLeftOut) {
  const GsaProblem problem =
      rounded(random_problem({{70, 33}, 2, 2, 64, 64, 32, true}, 14), DType::bfloat16);
  for (const Form form : {Form::chunked, Form::recurrent}) {
    Results all = run_on_cuda(problem, DType::bfloat16, {.form = form});
    const Results some =
        run_on_cuda(problem, DType::bfloat16, {.form = form, .wants_state_gradients = false});
    all.gradients.erase("initial_key_state");
    all.gradients.erase("initial_value_state");
    EXPECT_EQ(all.gradients, some.gradients) << name_of(form);
  }
}

// With larger inputs the scores over 512 dimensions are so large that rounding swish of them to
// bfloat16, whatever computes it, costs the gradients 3e-2.
constexpr double projected_range = 1;

TEST_F(GsaCuda, ProjectedIsAsDefined) {
  uint64_t seed = 201;
  for (const GsaShape& shape : shapes) {
    const GsaProblem problem = random_projected_problem(shape, seed++, projected_range);
    expect_as_defined(problem, DType::bfloat16);
    expect_as_defined(problem, DType::bfloat16, {.form = Form::recurrent});
    expect_as_defined(problem, DType::float32);
  }
}

TEST_F(GsaCuda, ProjectedIsAsDefinedWithSteepSlots) {
  for (const int64_t every : {1, 3, 16}) {
    GsaProblem problem =
        random_projected_problem({{150, 64}, 4, 2, 64, 96, 112, true}, 15, projected_range);
    Random random(16);
    std::vector<double>& logits = problem.inputs.at("gate_logits");
    for (size_t i = 0; i < logits.size(); ++i) {
      if (static_cast<int64_t>(i) % problem.shape.slots % every == 0) {
        logits[i] = random.uniform(-30, 0);
      }
    }
    expect_as_defined(problem, DType::bfloat16);
  }
}

TEST_F(GsaCuda, ProjectedRowsMayLieApart) {
  constexpr int64_t padding = 24;
  expect_as_defined(
      random_projected_problem({{70, 65}, 4, 2, 48, 64, 32, true}, 17, projected_range),
      DType::bfloat16, {.padding = padding});
}

TEST_F(GsaCuda, ProjectedWithoutKeptStatesGivesTheSameBits) {
  const GsaProblem problem =
      rounded(random_projected_problem({{170, 40}, 4, 2, 64, 128, 64, false}, 18, projected_range),
              DType::bfloat16);
  const Results kept = run_on_cuda(problem, DType::bfloat16);
  const Results computed_again = run_on_cuda(problem, DType::bfloat16, {.keeps = false});
  EXPECT_EQ(kept.outputs, computed_again.outputs);
  EXPECT_EQ(kept.gradients, computed_again.gradients);
}

// So few heads that the scan cuts sequences into segments: three of one sequence, a last one that
// is short, sequences of one segment and of none; a final state that goes through all of them.
TEST_F(GsaCuda, LongSequencesAreAsDefined) {
  expect_as_defined(random_problem({{1100}, 2, 1, 64, 64, 64, true}, 21), DType::bfloat16);
  expect_as_defined(random_problem({{1100}, 1, 1, 96, 32, 128, true}, 22), DType::bfloat16);
  const GsaShape packed{{600, 0, 90, 1500}, 2, 2, 48, 80, 32, true};
  expect_as_defined(random_problem(packed, 23), DType::bfloat16);
  expect_as_defined(random_projected_problem(packed, 24, projected_range), DType::bfloat16);
}

TEST_F(GsaCuda, LongSequencesWithoutKeptStatesGiveTheSameBits) {
  const GsaProblem problem =
      rounded(random_problem({{1100}, 4, 2, 64, 128, 64, false}, 25), DType::bfloat16);
  const Results kept = run_on_cuda(problem, DType::bfloat16);
  const Results computed_again = run_on_cuda(problem, DType::bfloat16, {.keeps = false});
  EXPECT_EQ(kept.outputs, computed_again.outputs);
  EXPECT_EQ(kept.gradients, computed_again.gradients);
}

}  // namespace
}  // namespace gsa::test
