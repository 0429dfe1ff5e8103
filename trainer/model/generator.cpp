#include "trainer/model/generator.h"

#include <algorithm>
#include <stdexcept>

#include "kernels/optimizer.h"

namespace gsa {
namespace {

Tensor host_view(std::span<const int32_t> values) {
  return {const_cast<int32_t*>(values.data()),
          DType::int32,
          Device::cpu,  // NOLINT: read only
          {static_cast<int64_t>(values.size())}};
}

}  // namespace

Generator::Generator(Engine& engine, int64_t sequences) : engine_(engine), sequences_(sequences) {
  const Device device = engine.options().device;
  const DType dtype = engine.statistics();
  const auto layers = engine.model().state_shapes(sequences);
  constexpr size_t alignment = 256;
  const auto padded = [&](const Shape& shape) {
    const size_t bytes = static_cast<size_t>(shape.count()) * size_of(dtype);
    return (bytes + alignment - 1) / alignment * alignment;
  };
  size_t total = 0;
  for (const auto& shapes : layers) {
    for (const Shape& shape : shapes) {
      total += padded(shape);
    }
  }
  state_memory_ = Buffer(device, total);
  size_t offset = 0;
  for (const auto& shapes : layers) {
    MixerState state;
    for (const Shape& shape : shapes) {
      state.tensors.push_back(state_memory_.tensor(dtype, shape, offset));
      offset += padded(shape);
    }
    states_.push_back(state);
  }
  const int64_t vocabulary = engine.model().config().vocabulary;
  const auto count = static_cast<size_t>(sequences * vocabulary);
  logit_memory_ = Buffer(device, count * size_of(engine.options().dtype));
  float_memory_ = Buffer(device, count * sizeof(float));
  logits_.resize(count);
}

std::span<const float> Generator::read(const std::vector<std::vector<int32_t>>& prompts) {
  if (static_cast<int64_t>(prompts.size()) != sequences_) {
    throw std::invalid_argument("there must be one prompt a sequence");
  }
  std::vector<int32_t> tokens;
  offsets_ = {0};
  for (const std::vector<int32_t>& prompt : prompts) {
    if (prompt.empty()) {
      throw std::invalid_argument("a prompt must have at least one token");
    }
    tokens.insert(tokens.end(), prompt.begin(), prompt.end());
    offsets_.push_back(static_cast<int32_t>(tokens.size()));
  }
  fill_zero(engine_.stream(),
            state_memory_.tensor(DType::byte, {static_cast<int64_t>(state_memory_.bytes())}));
  return run(tokens, Form::chunked);
}

std::span<const float> Generator::step(std::span<const int32_t> tokens) {
  if (static_cast<int64_t>(tokens.size()) != sequences_) {
    throw std::invalid_argument("a step takes one token a sequence");
  }
  offsets_.resize(static_cast<size_t>(sequences_) + 1);
  for (size_t i = 0; i < offsets_.size(); ++i) {
    offsets_[i] = static_cast<int32_t>(i);
  }
  return run(tokens, Form::recurrent);
}

std::span<const float> Generator::run(std::span<const int32_t> tokens, Form form) {
  const Device device = engine_.options().device;
  Stream& stream = engine_.stream();
  const auto count = static_cast<int64_t>(tokens.size());
  const auto offset_count = static_cast<int64_t>(offsets_.size());
  if (count + offset_count > input_capacity_) {
    input_capacity_ = count + offset_count;
    input_memory_ = Buffer(device, static_cast<size_t>(input_capacity_) * sizeof(int32_t));
  }
  const Tensor input = input_memory_.tensor(DType::int32, {input_capacity_});
  const Tensor ids = input.rows(0, count);
  const Tensor offsets = input.rows(count, count + offset_count);
  copy(stream, host_view(tokens), ids);
  copy(stream, host_view(offsets_), offsets);

  const kernels::Sequences sequences{.host = offsets_, .offsets = offsets};
  engine_.reserve_reading(sequences);
  Pass pass = engine_.pass(sequences);
  pass.form = form;
  pass.states = &states_;
  const int64_t vocabulary = engine_.model().config().vocabulary;
  const Tensor logits = logit_memory_.tensor(engine_.options().dtype, {sequences_, vocabulary});
  const Tensor floats = float_memory_.tensor(DType::float32, {sequences_, vocabulary});
  engine_.model().last_logits(pass, ids, logits);
  kernels::convert(stream, {.input = logits, .output = floats});
  copy(stream, floats, {logits_.data(), DType::float32, Device::cpu, {sequences_, vocabulary}});
  stream.synchronize();
  return logits_;
}

}  // namespace gsa
