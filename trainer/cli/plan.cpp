// gsa plan: what a run will cost, without running it.
#include "trainer/plan.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <vector>

#include "trainer/cli/commands.h"
#include "trainer/metrics/progress.h"
#include "trainer/session.h"

namespace gsa {
namespace {

struct PlanOptions {
  std::string config;
  std::vector<std::string> overrides;
  int ranks = 1;
  double tflops = 400;
  std::string json;
};

constexpr const char* footer =
    "Example:\n"
    "  gsa plan configs/gsa-1.3b.yaml --gpus 8\n"
    "Plans for GPUs in bfloat16, unless the configuration says distributed.device: cpu.";

double gib(size_t bytes) {
  return double(bytes) / (1024.0 * 1024.0 * 1024.0);
}

std::string table(const Config& config, const RunPlan& plan, const PlanOptions& options,
                  Device device, DType dtype) {
  const double seconds = plan.flops_total / (options.tflops * 1e12 * plan.ranks);
  std::string text = fmt::format("{} on {} x {} ({})\n", config.run.name, plan.ranks,
                                 device == Device::cuda ? "GPU" : "CPU rank", name_of(dtype));
  const auto line = [&](const std::string& name, const std::string& value) {
    text += fmt::format("  {:<28} {}\n", name, value);
  };
  line("parameters", fmt::format("{} ({})", plan.parameters, human_count(double(plan.parameters))));
  line("tokens", human_count(double(config.train.tokens)));
  line("step", fmt::format("{} tokens: {} ranks x {} micro-batches x {} x {}",
                           plan.batch.tokens_per_step, plan.ranks, plan.batch.accumulation,
                           config.train.micro_batch, config.data.sequence_length));
  line("steps", fmt::format("{}", plan.batch.steps));
  text += "memory a rank, GiB\n";
  line("weights", fmt::format("{:8.2f}", gib(plan.memory.weights)));
  line("gradients", fmt::format("{:8.2f}", gib(plan.memory.gradients)));
  line("masters and AdamW state", fmt::format("{:8.2f}", gib(plan.memory.optimizer)));
  line("activations and scratch", fmt::format("{:8.2f}", gib(plan.memory.activations)));
  line("total", fmt::format("{:8.2f}", gib(plan.memory.total())));
  text += "operations a token, forward and backward, GFLOP\n";
  for (const auto& [phase, flops] : plan.flops_by_phase) {
    line(phase, fmt::format("{:8.3f}", flops / 1e9));
  }
  line("total", fmt::format("{:8.3f}", plan.flops_per_token / 1e9));
  text += "time for the token budget\n";
  line(fmt::format("at {:.4g} TFLOP/s a rank", options.tflops), human_duration(seconds));
  line("tokens/s", human_count(double(config.train.tokens) / seconds));
  return text;
}

std::string json(const Config& config, const RunPlan& plan) {
  return fmt::format(
      "{{\"parameters\":{},\"ranks\":{},\"steps\":{},\"tokens_per_step\":{},\"accumulation\":{},"
      "\"memory_bytes\":{{\"weights\":{},\"gradients\":{},\"optimizer\":{},\"activations\":{},"
      "\"total\":{}}},\"flops_per_token\":{},\"flops_total\":{},\"tokens\":{}}}\n",
      plan.parameters, plan.ranks, plan.batch.steps, plan.batch.tokens_per_step,
      plan.batch.accumulation, plan.memory.weights, plan.memory.gradients, plan.memory.optimizer,
      plan.memory.activations, plan.memory.total(), plan.flops_per_token, plan.flops_total,
      config.train.tokens);
}

int run_plan(const PlanOptions& options) {
  const Config config = load_config(options.config, options.overrides);
  const Device device = config.distributed.device == "cpu" ? Device::cpu : Device::cuda;
  const DType dtype = choose_dtype(config.precision, device);
  const RunPlan plan = plan_run(config, device, dtype, options.ranks);
  std::fputs(table(config, plan, options, device, dtype).c_str(), stdout);
  if (!options.json.empty()) {
    write_text_file(options.json, json(config, plan));
  }
  return exit_done;
}

}  // namespace

void add_plan(CLI::App& program, Action& action) {
  const auto options = std::make_shared<PlanOptions>();
  CLI::App* command = program.add_subcommand(
      "plan", "Parameters, memory, operations and time of a run, without running it");
  command->add_option("config", options->config, "Configuration (YAML)")->required();
  command->add_option("overrides", options->overrides, "group.key=value, over the configuration");
  command->add_option("--gpus,--ranks", options->ranks, "Ranks of the run")
      ->check(CLI::PositiveNumber);
  command->add_option("--tflops", options->tflops, "TFLOP/s that a rank is assumed to reach")
      ->check(CLI::PositiveNumber);
  command->add_option("--json", options->json, "Also write the plan to this file as JSON");
  command->footer(footer);
  command->callback(
      [options, &action] { action.alone = [options] { return run_plan(*options); }; });
}

}  // namespace gsa
