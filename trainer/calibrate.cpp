// A machine's constants from the results of `gsa bench`.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "trainer/config/error.h"
#include "trainer/scaling.h"

namespace gsa {
namespace {

constexpr double giga = 1e9;
constexpr double tera = 1e12;
constexpr double milli = 1e-3;
constexpr double gib = 1024.0 * 1024.0 * 1024.0;

int ranks_of(const BenchFigures& figures) {
  return static_cast<int>(figures.at("ranks"));
}

bool is_step(const BenchFigures& figures) {
  return figures.has("step_ms");
}

// Micro-batches a step, as it was measured; throws for a step of another model or batch.
int64_t accumulation_of(const BenchFigures& figures, const Config& config, double parameters) {
  const auto unit = double(config.train.micro_batch * config.data.sequence_length);
  const double count = figures.at("tokens_per_step") / (unit * ranks_of(figures));
  if (figures.at("parameters") != parameters || count < 1 || count != std::floor(count)) {
    throw ConfigError(fmt::format(
        "{}: measured with {:.0f} parameters and {:.0f} tokens a step, but this configuration has "
        "{:.0f} parameters and micro-batches of {:.0f} tokens; give the one that was measured",
        figures.source, figures.at("parameters"), figures.at("tokens_per_step"), parameters, unit));
  }
  return static_cast<int64_t>(count);
}

void set_rates(const BenchFigures& figures, const StepWork& work, int64_t accumulation,
               Machine& machine) {
  double known = 0;
  auto phases_ms = figures.phases_ms;
  phases_ms["products"] += phases_ms["glu"];  // where SwiGLU is not a part of products already
  const auto milliseconds = [&](const char* phase) {
    const auto found = phases_ms.find(phase);
    if (found == phases_ms.end() || found->second <= 0) {
      throw ConfigError(fmt::format("{}: no time of the phase {}", figures.source, phase));
    }
    return found->second;
  };
  for (const char* phase : {"products", "gsa", "norms", "loss", "embedding", "optimizer"}) {
    known += milliseconds(phase);
  }
  // Phases are timed one by one; together they can seem longer than the step that they make up.
  const double step_ms = figures.at("step_ms");
  const double scale = milli * std::min(1.0, step_ms / known);
  const auto rate = [&](const char* phase, double amount, double unit) {
    return double(accumulation) * amount / (milliseconds(phase) * scale) / unit;
  };
  Machine::Rates& rates = machine.rates;
  rates.products = rate("products", work.products_flops, tera);
  rates.gsa = rate("gsa", work.mixer_flops, tera);
  rates.norms = rate("norms", work.norm_elements, giga);
  rates.loss = rate("loss", work.loss_elements, giga);
  rates.embedding = rate("embedding", work.embedding_elements, giga);
  rates.optimizer = work.parameters() / (milliseconds("optimizer") * scale) / giga;
  rates.other_ms = std::max(0.0, step_ms - known);
}

// What a rank took of its GPU beside its buffers and arena, GiB, by the sizes that these had in the
// program that was measured: one of another day may plan less.
double overhead_gib(const BenchFigures& figures) {
  return std::max(
      0.0, figures.at("peak_memory_gib") - figures.at("buffers_gib") - figures.at("arena_gib"));
}

// Whether NCCL's kernels made the collectives, and not copies between GPUs.
bool is_by_nccl(const BenchFigures& figures) {
  const auto transport = figures.texts.find("transport");
  return transport == figures.texts.end() || transport->second.starts_with("NCCL");
}

// The slowdown with which the prediction meets a step that was measured on several GPUs.
double slowdown_of(const BenchFigures& figures, const StepWork& work, int64_t accumulation,
                   Machine machine) {
  machine.node.slowdown = 0;
  const StepTime step = predict_step(machine, work, ranks_of(figures), accumulation);
  const double behind = step.communication - step.exposed;
  const double missing = figures.at("step_ms") * milli - step.total();
  return behind > 0 ? std::max(0.0, missing / behind) : 0;
}

// What results of several GPUs tell, whose collectives were all made in one way.
void set_communication(const std::vector<const BenchFigures*>& results, const Config& config,
                       const StepWork& work, double parameters, Machine& machine) {
  for (const BenchFigures* figures : results) {
    if (figures->has("reduce_scatter_bus_gb_s")) {
      machine.node.reduce_scatter[ranks_of(*figures)] = figures->at("reduce_scatter_bus_gb_s");
      machine.node.all_gather[ranks_of(*figures)] = figures->at("all_gather_bus_gb_s");
    }
  }
  // Second, as they are compared with what the constants above predict.
  double slowdowns = 0;
  int steps = 0;
  for (const BenchFigures* figures : results) {
    if (is_step(*figures)) {
      slowdowns +=
          slowdown_of(*figures, work, accumulation_of(*figures, config, parameters), machine);
      ++steps;
      machine.memory.communication =
          std::max(0.0, overhead_gib(*figures) - machine.memory.overhead);
    }
  }
  if (steps > 0) {
    machine.node.slowdown = slowdowns / steps;
  }
}

}  // namespace

Machine calibrate(Machine machine, const Config& config, Device device, DType dtype,
                  const std::vector<BenchFigures>& results) {
  const StepWork work = step_work(config, device, dtype);
  const auto parameters = double(count_parameters(config.model));
  bool has_single = false;
  std::vector<const BenchFigures*> by_nccl;
  std::vector<const BenchFigures*> by_copies;
  for (const BenchFigures& figures : results) {
    if (ranks_of(figures) > 1) {
      (is_by_nccl(figures) ? by_nccl : by_copies).push_back(&figures);
    } else if (is_step(figures)) {
      set_rates(figures, work, accumulation_of(figures, config, parameters), machine);
      machine.name = figures.texts.at("device");
      machine.memory.overhead = overhead_gib(figures);
      if (figures.has("memory_gib")) {
        machine.memory.gpu = figures.at("memory_gib");
      }
      has_single = true;
    }
  }
  if (!has_single) {
    throw ConfigError("a machine's rates need a result of gsa bench step on one GPU");
  }
  // A node's GPUs copy where they can; between nodes NCCL's kernels communicate.
  set_communication(by_nccl, config, work, parameters, machine);
  if (!by_nccl.empty()) {
    machine.network.slowdown = machine.node.slowdown;
  }
  set_communication(by_copies, config, work, parameters, machine);
  return machine;
}

}  // namespace gsa
