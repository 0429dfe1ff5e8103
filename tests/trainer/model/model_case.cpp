#include "tests/trainer/model/model_case.h"

#include <stdexcept>

#include "kernels/cross_entropy.h"
#include "kernels/optimizer.h"

namespace gsa::test {
namespace {

std::vector<float> to_floats(const std::vector<double>& values) {
  return {values.begin(), values.end()};
}

}  // namespace

ModelConfig small_model() {
  ModelConfig config;
  config.vocabulary = 24;
  config.hidden = 32;
  config.layers = 2;
  config.heads = 2;
  config.kv_heads = 1;
  config.slots = 16;
  config.intermediate = 32;
  return config;
}

ModelCase::ModelCase(const ModelConfig& config, Device device, DType dtype, Keep keep,
                     ParameterStore::Gradients gradients)
    : engine_(config, {.device = device, .dtype = dtype, .keep = keep, .gradients = gradients}) {}

void ModelCase::randomize(uint64_t seed) {
  Random random(seed);
  for (const ParameterInfo& parameter : engine_.parameters().parameters()) {
    const bool norm = parameter.initialization == Initialization::ones;
    set_weight(parameter.name,
               random.uniform_values(parameter.shape.count(), norm ? 0.5 : -0.5, norm ? 1.5 : 0.5));
  }
}

const ParameterInfo& ModelCase::info(const std::string& name) const {
  for (const ParameterInfo& parameter : engine_.parameters().parameters()) {
    if (parameter.name == name) {
      return parameter;
    }
  }
  throw std::invalid_argument("the model has no parameter " + name);
}

Tensor ModelCase::flat(const Tensor& all, const ParameterInfo& parameter) const {
  return all.rows(parameter.offset, parameter.offset + parameter.shape.count());
}

void ModelCase::set_weight(const std::string& name, const std::vector<double>& values) {
  weights_[name] = values;
  const Tensor target = flat(engine_.parameters().all_weights(), info(name));
  const Shape shape{static_cast<int64_t>(values.size())};
  if (target.dtype() == DType::float64) {
    const HostTensor host(DType::float64, shape, values);
    copy(engine_.stream(), host, target);
    return;
  }
  const std::vector<float> floats = to_floats(values);
  const Buffer staging(target.device(), floats.size() * sizeof(float));
  const Tensor device = staging.tensor(DType::float32, shape);
  copy(engine_.stream(), ConstTensor(floats.data(), DType::float32, Device::cpu, shape), device);
  kernels::convert(engine_.stream(), {.input = device, .output = target});
  engine_.stream().synchronize();
}

std::vector<double> ModelCase::weight(const std::string& name) const {
  return weights_.at(name);
}

std::vector<double> ModelCase::read(const Tensor& tensor) {
  const Shape shape{tensor.count()};
  const Tensor source = tensor.reshape(shape);
  if (tensor.dtype() == DType::float64) {
    HostTensor host(DType::float64, shape);
    copy(engine_.stream(), source, host);
    engine_.stream().synchronize();
    return host.values();
  }
  const Buffer staging(tensor.device(), static_cast<size_t>(tensor.count()) * sizeof(float));
  const Tensor floats = staging.tensor(DType::float32, shape);
  kernels::convert(engine_.stream(), {.input = source, .output = floats});
  HostTensor host(DType::float32, shape);
  copy(engine_.stream(), floats, host);
  engine_.stream().synchronize();
  return host.values();
}

std::vector<double> ModelCase::gradient(const std::string& name) {
  return read(flat(engine_.parameters().all_gradients(), info(name)));
}

std::vector<std::string> ModelCase::names() const {
  std::vector<std::string> names;
  for (const ParameterInfo& parameter : engine_.parameters().parameters()) {
    names.push_back(parameter.name);
  }
  return names;
}

void ModelCase::set_batch(const std::vector<int32_t>& tokens, const std::vector<int32_t>& labels,
                          std::vector<int32_t> offsets) {
  offsets_ = std::move(offsets);
  labels_ = labels;
  std::vector<int32_t> all = tokens;
  all.insert(all.end(), labels.begin(), labels.end());
  all.insert(all.end(), offsets_.begin(), offsets_.end());
  const auto count = static_cast<int64_t>(tokens.size());
  const auto total = static_cast<int64_t>(all.size());
  ids_ = Buffer(engine_.options().device, all.size() * sizeof(int32_t));
  const Tensor device = ids_.tensor(DType::int32, {total});
  copy(engine_.stream(), ConstTensor(all.data(), DType::int32, Device::cpu, {total}), device);
  engine_.stream().synchronize();
  token_view_ = device.rows(0, count);
  label_view_ = device.rows(count, 2 * count);
  offset_view_ = device.rows(2 * count, total);
  losses_ = Buffer(engine_.options().device, tokens.size() * size_of(engine_.statistics()));
}

kernels::Sequences ModelCase::sequences() const {
  return {.host = offsets_, .offsets = offset_view_};
}

double ModelCase::mean_loss(const Tensor& losses) {
  double sum = 0;
  for (const double loss : read(losses)) {
    sum += loss;
  }
  double count = 0;
  for (const int32_t label : labels_) {
    count += label != kernels::ignored_label ? 1 : 0;
  }
  return sum / count;
}

double ModelCase::loss() {
  engine_.reserve_reading(sequences());
  Pass pass = engine_.pass(sequences());
  const Tensor losses = losses_.tensor(pass.statistics(), {pass.tokens()});
  engine_.model().loss(pass, token_view_, label_view_, losses);
  return mean_loss(losses);
}

double ModelCase::loss_and_gradients() {
  engine_.reserve_training(sequences());
  Pass pass = engine_.pass(sequences());
  const Tensor losses = losses_.tensor(pass.statistics(), {pass.tokens()});
  double count = 0;
  for (const int32_t label : labels_) {
    count += label != kernels::ignored_label ? 1 : 0;
  }
  BucketHooks hooks;
  if (engine_.parameters().gradients_in_arena()) {
    hooks.gradients_begin = [this](int bucket) {
      engine_.parameters().begin_gradients(engine_.stream(), bucket);
    };
    pass.hooks = &hooks;
  }
  engine_.model().forward_backward(pass, token_view_, label_view_, 1.0 / count, losses);
  return mean_loss(losses);
}

void ModelCase::zero_gradients() {
  fill_zero(engine_.stream(), engine_.parameters().all_gradients());
}

std::vector<double> ModelCase::logits() {
  engine_.reserve_reading(sequences(), true);
  Pass pass = engine_.pass(sequences());
  const Shape shape{pass.tokens(), engine_.model().config().vocabulary};
  const Buffer memory(engine_.options().device,
                      static_cast<size_t>(shape.count()) * size_of(pass.dtype));
  const Tensor logits = memory.tensor(pass.dtype, shape);
  engine_.model().logits(pass, token_view_, logits);
  return read(logits);
}

}  // namespace gsa::test
