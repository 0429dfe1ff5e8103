#include "trainer/model/generator.h"

#include <algorithm>
#include <numeric>
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

// Sizes of tensors that lie in one buffer, each at a multiple of 256 bytes.
class Layout {
 public:
  size_t add(DType dtype, const Shape& shape) {
    constexpr size_t alignment = 256;
    const size_t offset = end_;
    const size_t bytes = static_cast<size_t>(shape.count()) * size_of(dtype);
    end_ += (bytes + alignment - 1) / alignment * alignment;
    return offset;
  }
  size_t end() const { return end_; }

 private:
  size_t end_ = 0;
};

}  // namespace

Generator::Generator(Engine& engine, const GeneratorOptions& options)
    : engine_(engine),
      options_(options),
      drawn_events_{Event(engine.options().device), Event(engine.options().device)} {
  options_.sampling.check();
  const int64_t vocabulary = engine.model().config().vocabulary;
  options_.choices = options_.choices == 0 ? vocabulary : std::min(options_.choices, vocabulary);
  if (options_.sequences < 1 || options_.choices < 1) {
    throw std::invalid_argument("there must be a sequence to write, and a token to choose");
  }
  if (options_.state_period < 0) {
    throw std::invalid_argument("states must be written after 1 step or more");
  }
  options_.state_period = options_.state_period == 0 ? fitting_period() : options_.state_period;
  allocate_states();
  allocate_vectors();
  engine_.reserve_for(step_sequences(), [this](LanguageModel& model, Pass& pass) {
    pass.form = Form::recurrent;
    pass.states = &states_;
    queue_step(model, pass);
    queue_draw(pass.stream);
  });
}

// On a GPU the states of many sequences take most of a step to read and write; few take one kernel
// with all else.
int64_t Generator::fitting_period() const {
  constexpr int64_t many_sequences_period = 8;
  const bool many = engine_.options().device == Device::cuda && options_.form == StepForm::decode &&
                    options_.sequences > kernels::decode_few_sequences;
  return many ? many_sequences_period : 1;
}

void Generator::allocate_states() {
  const auto layers = engine_.model().state_shapes(options_.sequences);
  const std::vector<Shape> kept =
      engine_.model().kept_shapes(options_.sequences, options_.state_period);
  const bool keeps = options_.state_period > 1 && options_.form == StepForm::decode;
  // All tensors in order, once for their sizes and once for themselves.
  const auto for_tensors = [&](auto&& take) {
    std::vector<MixerState> states;
    if (keeps) {
      step_ = take(DType::int32, Shape{1});
    }
    for (size_t layer = 0; layer < layers.size(); ++layer) {
      MixerState state;
      for (const Shape& shape : layers[layer]) {
        state.tensors.push_back(take(engine_.statistics(), shape));
      }
      if (keeps && kept[layer].rank() > 0) {
        state.kept = {.rows = take(engine_.options().dtype, kept[layer]),
                      .step = step_,
                      .offset = static_cast<int64_t>(layer)};
      }
      states.push_back(state);
    }
    return states;
  };
  Layout sizes;
  for_tensors([&](DType dtype, const Shape& shape) {
    sizes.add(dtype, shape);
    return Tensor();
  });
  state_memory_ = Buffer(engine_.options().device, sizes.end());
  Layout layout;
  states_ = for_tensors([&](DType dtype, const Shape& shape) {
    return state_memory_.tensor(dtype, shape, layout.add(dtype, shape));
  });
}

void Generator::allocate_vectors() {
  const Device device = engine_.options().device;
  const int64_t sequences = options_.sequences;
  const Shape shape{sequences};
  const Shape matrix{sequences, engine_.model().config().vocabulary};
  Layout vectors;
  const size_t tokens = vectors.add(DType::int32, shape);
  const size_t positions = vectors.add(DType::int32, shape);
  const size_t offsets = vectors.add(DType::int32, {sequences + 1});
  vector_memory_ = Buffer(device, vectors.end());
  tokens_ = vector_memory_.tensor(DType::int32, shape, tokens);
  positions_ = vector_memory_.tensor(DType::int32, shape, positions);
  step_offsets_ = vector_memory_.tensor(DType::int32, {sequences + 1}, offsets);
  host_offsets_.resize(static_cast<size_t>(sequences) + 1);
  std::iota(host_offsets_.begin(), host_offsets_.end(), 0);
  copy(engine_.stream(), host_view(host_offsets_), step_offsets_);

  const DType dtype = engine_.options().dtype;
  Layout logits;
  const size_t floats = logits.add(DType::float32, matrix);
  const size_t own = dtype == DType::float32 ? floats : logits.add(dtype, matrix);
  logit_memory_ = Buffer(device, logits.end());
  logits_ = logit_memory_.tensor(DType::float32, matrix, floats);
  model_logits_ = logit_memory_.tensor(dtype, matrix, own);
  host_logits_.resize(static_cast<size_t>(matrix.count()));

  const Shape draws{static_cast<int64_t>(slots), sequences};
  drawn_memory_ =
      Buffer(device, static_cast<size_t>(draws.count()) * sizeof(int32_t), MemoryKind::pinned);
  drawn_ = drawn_memory_.tensor(DType::int32, draws);
  result_.resize(static_cast<size_t>(sequences));
}

kernels::Sequences Generator::step_sequences() const {
  return {.host = host_offsets_, .offsets = step_offsets_};
}

Pass Generator::step_pass() {
  Pass pass = engine_.pass(step_sequences());
  pass.form = Form::recurrent;
  pass.states = &states_;
  return pass;
}

void Generator::queue_prompts(const std::vector<std::vector<int32_t>>& prompts) {
  if (static_cast<int64_t>(prompts.size()) != options_.sequences) {
    throw std::invalid_argument("there must be one prompt a sequence");
  }
  input_.clear();
  std::vector<int32_t> offsets{0};
  for (const std::vector<int32_t>& prompt : prompts) {
    if (prompt.empty()) {
      throw std::invalid_argument("a prompt must have at least one token");
    }
    input_.insert(input_.end(), prompt.begin(), prompt.end());
    offsets.push_back(static_cast<int32_t>(input_.size()));
  }
  const auto tokens = static_cast<int64_t>(input_.size());
  input_.insert(input_.end(), offsets.begin(), offsets.end());
  const auto all = static_cast<int64_t>(input_.size());
  Stream& stream = engine_.stream();
  stream.synchronize();  // what was read before may still be in use
  next_step_.reset();    // the arena may move
  if (input_memory_.bytes() < input_.size() * sizeof(int32_t)) {
    input_memory_ = Buffer(engine_.options().device, input_.size() * sizeof(int32_t));
  }
  const Tensor input = input_memory_.tensor(DType::int32, {all});
  copy(stream, host_view(input_), input);
  fill_zero(stream,
            state_memory_.tensor(DType::byte, {static_cast<int64_t>(state_memory_.bytes())}));
  fill_zero(stream, positions_);

  const kernels::Sequences sequences{
      .host = std::span<const int32_t>(input_).subspan(static_cast<size_t>(tokens)),
      .offsets = input.rows(tokens, all)};
  engine_.reserve_reading(sequences);
  Pass pass = engine_.pass(sequences);
  pass.states = &states_;
  engine_.model().last_logits(pass, input.rows(0, tokens), model_logits_);
  convert_logits(stream);
}

// Logits of the tokens after tokens_.
void Generator::queue_step(LanguageModel& model, Pass& pass) {
  if (options_.form == StepForm::decode && pass.dtype != DType::float64) {
    model.decode(pass, tokens_, logits_);
  } else if (options_.form == StepForm::decode) {
    model.decode(pass, tokens_, model_logits_);
    convert_logits(pass.stream);
  } else {
    model.last_logits(pass, tokens_, model_logits_);
    convert_logits(pass.stream);
  }
  if (step_) {
    kernels::count_step(pass.stream, {.step = step_});
  }
}

void Generator::convert_logits(Stream& stream) {
  if (model_logits_.data() != logits_.data()) {
    kernels::convert(stream, {.input = model_logits_, .output = logits_});
  }
}

void Generator::queue_draw(Stream& stream) {
  kernels::sample_tokens(stream, {.logits = logits_.columns(0, options_.choices),
                                  .options = options_.sampling,
                                  .first_sequence = options_.first_sequence,
                                  .positions = positions_,
                                  .tokens = tokens_,
                                  .history = drawn_});
}

std::span<const float> Generator::download() {
  copy(engine_.stream(), logits_,
       {host_logits_.data(), DType::float32, Device::cpu, logits_.shape()});
  engine_.stream().synchronize();
  return host_logits_;
}

std::span<const float> Generator::read(const std::vector<std::vector<int32_t>>& prompts) {
  queue_prompts(prompts);
  return download();
}

std::span<const float> Generator::step(std::span<const int32_t> tokens) {
  if (static_cast<int64_t>(tokens.size()) != options_.sequences) {
    throw std::invalid_argument("a step takes one token a sequence");
  }
  copy(engine_.stream(), host_view(tokens), tokens_);
  Pass pass = step_pass();
  queue_step(engine_.model(), pass);
  return download();
}

// Tells when the tokens drawn last are the host's to read.
void Generator::publish() {
  drawn_events_[published_++ % slots].record(engine_.stream());
}

void Generator::start(const std::vector<std::vector<int32_t>>& prompts) {
  queue_prompts(prompts);
  queue_draw(engine_.stream());
  published_ = taken_ = 0;
  publish();
  next_step_ = std::make_unique<CapturedWork>(engine_.stream(), [this] {
    Pass pass = step_pass();
    queue_step(engine_.model(), pass);
    queue_draw(pass.stream);
  });
}

std::span<const int32_t> Generator::next() {
  if (next_step_ == nullptr) {
    throw std::logic_error("nothing is being written: start comes first");
  }
  // A GPU runs ahead by one step; a CPU computes what is asked for.
  const bool ahead = engine_.options().device == Device::cuda;
  if (ahead || taken_ == published_) {
    next_step_->run();
    publish();
  }
  const size_t slot = taken_++ % slots;
  drawn_events_[slot].synchronize();
  const auto row = static_cast<int64_t>(slot);
  std::copy_n(drawn_.rows(row, row + 1).as<int32_t>(), result_.size(), result_.begin());
  return result_;
}

}  // namespace gsa
