// gsa bench step: an optimizer step on random tokens.
#include <algorithm>
#include <chrono>
#include <cmath>

#include "trainer/cli/bench.h"
#include "trainer/cli/step_bench.h"
#include "trainer/distributed/collective.h"
#include "trainer/plan.h"

namespace gsa {
namespace {

constexpr double bytes_per_gib = 1024.0 * 1024.0 * 1024.0;
constexpr int warm_up_steps = 3;
constexpr double timed_seconds = 10.0;
constexpr int phase_steps = 3;
constexpr int64_t fewest_steps = 5;

// Seconds a step, over many steps without a stop between them.
double time_steps(StepBench& bench, const BenchStepOptions& options, Session& session) {
  for (int i = 0; i < warm_up_steps; ++i) {
    bench.step();
  }
  const auto run = [&](int64_t steps) {
    bench.engine().stream().synchronize();
    session.communicator->barrier();
    const auto begin = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < steps; ++i) {
      bench.step();
    }
    bench.engine().stream().synchronize();
    session.communicator->barrier();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() /
           double(steps);
  };
  int64_t steps = options.steps;
  if (steps == 0) {
    // All ranks must run as many: one decides.
    const double one = run(2);
    steps = std::max(fewest_steps, static_cast<int64_t>(timed_seconds / one));
    steps = std::stoll(session.communicator->broadcast_text(std::to_string(steps)));
  }
  return run(steps);
}

std::map<std::string, double> phases(StepBench& bench, double step_ms) {
  Stream& stream = bench.engine().stream();
  PhaseTimer timer(stream);
  // A step in front without a stop behind it, so that what is timed waits for its communication.
  bench.step();
  stream.set_observer(&timer);
  for (int i = 0; i < phase_steps; ++i) {
    bench.step();
  }
  std::map<std::string, double> sums = timer.milliseconds();
  stream.set_observer(nullptr);
  // There in every result, whatever the step has of them.
  for (const char* phase : {communication_phase, "glu"}) {
    sums.try_emplace(phase, 0.0);
  }
  for (auto& [phase, ms] : sums) {
    ms /= phase_steps;
  }
  double known = 0;
  for (const auto& [phase, ms] : sums) {
    known += ms;
  }
  sums["other"] = std::max(0.0, step_ms - known);
  return sums;
}

// Bytes of weights, gradients and the optimizer's state.
size_t plan_buffers(Config config, const Session& session) {
  config.train.batch_tokens = 0;
  const MemoryPlan memory =
      plan_run(config, session.device, session.dtype, session.communicator->size()).memory;
  return memory.total() - memory.activations;
}

}  // namespace

BenchResult bench_step(const Config& config, const BenchStepOptions& options, Session& session) {
  BenchResult result;
  describe_machine(session, result);
  StepBench bench(config, options.accumulation, session);
  const double seconds = time_steps(bench, options, session);
  const EngineOptions plain{.device = session.device, .dtype = session.dtype};
  const HostSequences sequences(config.train.micro_batch, config.data.sequence_length);
  const PassCost cost = plan_training(config.model, plain, sequences.view(session.device));
  const double flops =
      cost.flops * double(options.accumulation) * session.communicator->size() / seconds;
  const DeviceInfo device = device_info(session.device, session.ordinal);

  result.add("config", config.run.name);
  result.add("parameters", double(bench.engine().parameters().parameter_count()));
  result.add("tokens_per_step", bench.nominal_tokens());
  result.add("tokens_per_second", bench.nominal_tokens() / seconds);
  result.add("step_ms", seconds * 1e3);
  result.add("model_tflops", flops / 1e12);
  const ParameterStore& parameters = bench.engine().parameters();
  const size_t gradients = parameters.gradients_in_arena() ? parameters.gradient_tail(0) : 0;
  result.add("arena_gib",  // beside gradients, wherever they lie
             double(bench.engine().tape().capacity() - gradients) / bytes_per_gib);
  result.add("buffers_gib", double(plan_buffers(config, session)) / bytes_per_gib);
  if (session.device == Device::cuda) {
    result.add("memory_gib", double(device.memory_bytes) / bytes_per_gib);
    result.add("peak_memory_gib", double(device.memory_bytes - device.free_bytes) / bytes_per_gib);
  }
  const std::map<std::string, double> by_phase = phases(bench, seconds * 1e3);
  if (by_phase.contains("products")) {
    double known = 0;
    for (const auto& [phase, ms] : by_phase) {
      known += ms;
    }
    result.add("share_of_products", by_phase.at("products") / known);
  }
  result.add("phases_ms", by_phase);
  Stream stream(session.device);
  Tape scratch(session.device, size_t{64} << 20);
  stream.set_scratch(&scratch);
  const bool gpu = session.device == Device::cuda;
  const int64_t size = gpu ? 8192 : 1024;
  result.add("reference_gemm_tflops", gemm_tflops(stream, session.dtype, size, size, size));
  result.add("copy_tb_s", copy_tb_s(stream));
  return result;
}

}  // namespace gsa
