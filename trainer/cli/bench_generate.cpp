// gsa bench generate: text from random weights, and the memory traffic that a token cannot do
// without.
#include <algorithm>
#include <chrono>
#include <random>

#include "kernels/optimizer.h"
#include "trainer/cli/bench.h"
#include "trainer/model/generator.h"

namespace gsa {
namespace {

constexpr double bytes_per_gib = 1024.0 * 1024.0 * 1024.0;
constexpr double bytes_per_tb = 1e12;
constexpr double ms_per_second = 1e3;
constexpr double weight_scale = 0.02;
constexpr int warm_up_tokens = 4;

using Clock = std::chrono::steady_clock;

double milliseconds_since(Clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

// Random matrices, and norms that scale by one.
void fill_weights(Engine& engine) {
  const ParameterStore& parameters = engine.parameters();
  fill_normal(engine.stream(), parameters.all_weights(), weight_scale, 1);
  const int64_t hidden = engine.model().config().hidden;
  const std::vector<float> ones(static_cast<size_t>(hidden), 1.0F);
  const Buffer staging(engine.options().device, ones.size() * sizeof(float));
  const Tensor floats = staging.tensor(DType::float32, {hidden});
  copy(engine.stream(), {ones.data(), DType::float32, Device::cpu, {hidden}}, floats);
  for (size_t i = 0; i < parameters.parameters().size(); ++i) {
    if (parameters.parameters()[i].initialization == Initialization::ones) {
      kernels::convert(engine.stream(), {.input = floats, .output = parameters.weight(i)});
    }
  }
  engine.stream().synchronize();
}

std::vector<std::vector<int32_t>> random_prompts(const Config& config,
                                                 const BenchGenerateOptions& options) {
  std::mt19937_64 random(1);
  std::uniform_int_distribution<int32_t> token(0,
                                               static_cast<int32_t>(config.model.vocabulary) - 1);
  std::vector<std::vector<int32_t>> prompts(static_cast<size_t>(options.batch));
  for (std::vector<int32_t>& prompt : prompts) {
    prompt.resize(static_cast<size_t>(options.prompt));
    std::generate(prompt.begin(), prompt.end(), [&] { return token(random); });
  }
  return prompts;
}

// Bytes that a step reads and writes at least: all weights but the embedding's (of which it takes
// a row a sequence), every state once, and once more in the steps that write it.
double step_bytes(const Engine& engine, const Config& config, const Generator& generator) {
  const int64_t embedding =
      config.model.tie_embeddings ? 0 : config.model.vocabulary * config.model.hidden;
  const int64_t weights = engine.parameters().parameter_count() - embedding;
  const double state_passes = 1.0 + 1.0 / double(generator.state_period());
  return double(weights) * double(size_of(engine.options().dtype)) +
         state_passes * double(generator.state_bytes());
}

}  // namespace

BenchResult bench_generate(const Config& config, const BenchGenerateOptions& options,
                           Session& session) {
  BenchResult result;
  describe_machine(session, result);
  Engine engine(config.model, {.device = session.device,
                               .dtype = session.dtype,
                               .memory = ParameterStore::Memory::weights_only});
  fill_weights(engine);
  Generator generator(engine, {.sequences = options.batch,
                               .sampling = options.sampling,
                               .form = options.reference ? StepForm::recurrent : StepForm::decode});
  const auto prompts = random_prompts(config, options);
  generator.start(prompts);
  for (int i = 0; i < warm_up_tokens; ++i) {
    generator.next();
  }
  engine.stream().synchronize();

  auto begin = Clock::now();
  generator.start(prompts);
  generator.next();
  const double first_token_ms = milliseconds_since(begin);
  generator.next();
  begin = Clock::now();
  for (int64_t i = 0; i < options.tokens; ++i) {
    generator.next();
  }
  const double step_ms = milliseconds_since(begin) / double(options.tokens);
  const DeviceInfo device = device_info(session.device, session.ordinal);
  engine.stream().synchronize();

  result.add("config", config.run.name);
  result.add("batch", double(options.batch));
  result.add("prompt_tokens", double(options.prompt));
  result.add("tokens_per_second", double(options.batch) / step_ms * ms_per_second);
  result.add("step_ms", step_ms);
  result.add("first_token_ms", first_token_ms);
  result.add("weights_gib", double(engine.parameters().all_weights().bytes()) / bytes_per_gib);
  result.add("states_gib", double(generator.state_bytes()) / bytes_per_gib);
  if (session.device == Device::cuda) {
    result.add("peak_memory_gib", double(device.memory_bytes - device.free_bytes) / bytes_per_gib);
  }
  const double copied = copy_tb_s(engine.stream());
  result.add("copy_tb_s", copied);
  const double bytes = step_bytes(engine, config, generator);
  result.add("floor_ms", bytes / (copied * bytes_per_tb) * ms_per_second);
  return result;
}

}  // namespace gsa
