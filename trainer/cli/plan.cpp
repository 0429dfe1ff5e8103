// gsa plan: what a run will cost, without running it.
#include "trainer/plan.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <vector>

#include "trainer/cli/commands.h"
#include "trainer/config/error.h"
#include "trainer/metrics/progress.h"
#include "trainer/scaling.h"
#include "trainer/session.h"

namespace gsa {
namespace {

struct PlanOptions {
  std::string config;
  std::vector<std::string> overrides;
  int ranks = 1;
  std::string machine;
  std::vector<std::string> measured;
  std::string save_machine;
  std::string json;
};

constexpr const char* footer =
    "Examples:\n"
    "  gsa plan configs/gsa-1.3b.yaml --gpus 8\n"
    "  gsa plan configs/gsa-1.3b.yaml --measured step1.json step2.json comm2.json \\\n"
    "      --save-machine configs/machines/mine.yaml\n"
    "Plans for GPUs in bfloat16, unless the configuration says distributed.device: cpu. Times are\n"
    "predicted for 1 to 1,024 GPUs from what was measured of a machine: --machine, by default\n"
    "machines/h200.yaml beside the configuration. Results of gsa bench step (on one GPU, and on\n"
    "several) and gsa bench comm take its place with --measured; CONFIG is then what they ran.";

// Everything that is printed.
struct Plan {
  Config config;
  Device device = Device::cuda;
  DType dtype = DType::bfloat16;
  RunPlan run;
  std::optional<Machine> machine;
  std::string machine_source;
  std::vector<ScalingRow> rows;
  int64_t parameters_at_8 = 0;  // the most that ZeRO-1 holds
  int64_t parameters_at_most = 0;
};

constexpr int most_gpus = 1024;
constexpr int a_node = 8;

double gib(double bytes) {
  return bytes / (1024.0 * 1024.0 * 1024.0);
}

std::string line(const std::string& name, const std::string& value) {
  return fmt::format("  {:<28} {}\n", name, value);
}

std::string run_table(const Plan& plan) {
  const Config& config = plan.config;
  const RunPlan& run = plan.run;
  std::string text =
      fmt::format("{} on {} x {} ({})\n", config.run.name, run.ranks,
                  plan.device == Device::cuda ? "GPU" : "CPU rank", name_of(plan.dtype));
  text += line("parameters",
               fmt::format("{} ({})", run.parameters, human_count(double(run.parameters))));
  text += line("tokens", human_count(double(config.train.tokens)));
  text += line("step", fmt::format("{} tokens: {} ranks x {} micro-batches x {} x {}",
                                   run.batch.tokens_per_step, run.ranks, run.batch.accumulation,
                                   config.train.micro_batch, config.data.sequence_length));
  if (run.batch.tokens_per_step != config.train.batch_tokens && config.train.batch_tokens != 0) {
    text += line("", fmt::format("(train.batch_tokens={} does not divide over the ranks; gsa train "
                                 "will want train.batch_tokens={})",
                                 config.train.batch_tokens, run.batch.tokens_per_step));
  }
  text += line("steps", fmt::format("{}", run.batch.steps));
  text += "memory a rank, GiB\n";
  const auto memory = [&text](const char* name, size_t bytes) {
    text += line(name, fmt::format("{:8.2f}", gib(double(bytes))));
  };
  memory("weights", run.memory.weights);
  memory("gradients", run.memory.gradients);
  memory("masters and AdamW state", run.memory.optimizer);
  memory("activations and scratch", run.memory.activations);
  memory("total", run.memory.total());
  text += "operations a token, forward and backward, GFLOP\n";
  for (const auto& [phase, flops] : run.flops_by_phase) {
    text += line(phase, fmt::format("{:8.3f}", flops / 1e9));
  }
  text += line("total", fmt::format("{:8.3f}", run.flops_per_token / 1e9));
  return text;
}

// What ZeRO-1's whole weights and gradients on every GPU mean: where this model fits, and which
// model no longer does.
std::string limits(const Plan& plan) {
  std::string text;
  const auto first = std::find_if(plan.rows.begin(), plan.rows.end(),
                                  [](const ScalingRow& row) { return row.fits; });
  if (first == plan.rows.end()) {
    text += fmt::format(
        "This does not fit {:.1f} GiB on any number of GPUs: weights, gradients and activations\n"
        "are whole on each. Try train.recompute=norms or =block, or a smaller train.micro_batch.\n",
        plan.machine->memory.gpu);
  } else if (first != plan.rows.begin()) {
    text += fmt::format("Fits from {} GPUs on.\n", first->gpus);
  }
  if (plan.parameters_at_8 == 0) {
    return text;
  }
  text += fmt::format(
      "With these activations ZeRO-1 stops fitting at {} parameters on {} GPUs and at {} on {}.\n",
      human_count(double(plan.parameters_at_8)), a_node,
      human_count(double(plan.parameters_at_most)), most_gpus);
  return text;
}

std::string scaling_table(const Plan& plan) {
  std::string text =
      fmt::format("\npredicted for {} ({})\n", plan.machine->name, plan.machine_source);
  text += fmt::format("{:>5} {:>12} {:>8} {:>9} {:>8} {:>8} {:>10} {:>8} {:>10} {:>11}\n", "GPUs",
                      "tokens/step", "GiB/GPU", "step ms", "comm ms", "exposed", "tokens/s",
                      "scaling", "run takes", "checkpoint");
  const ScalingRow& one = plan.rows.front();
  bool grew = false;
  for (const ScalingRow& row : plan.rows) {
    const double scaling = row.tokens_per_second / one.tokens_per_second / row.gpus * one.gpus;
    text += fmt::format(
        "{:>5} {:>11}{} {:>7.1f}{} {:>9.1f} {:>8.1f} {:>8.1f} {:>10} {:>7.1f}% {:>10} {:>11}\n",
        row.gpus, row.batch.tokens_per_step, row.batch_grew ? '*' : ' ', gib(row.memory_bytes),
        row.fits ? ' ' : '!', row.step.total() * 1e3, row.step.communication * 1e3,
        (row.step.exposed + row.step.slowed) * 1e3, human_count(row.tokens_per_second),
        scaling * 100, human_duration(double(plan.config.train.tokens) / row.tokens_per_second),
        human_duration(row.checkpoint_seconds));
    grew = grew || row.batch_grew;
  }
  text +=
      "exposed: what communication adds to the step, by waiting and by slowing what it runs "
      "behind\n";
  if (grew) text += "* train.batch_tokens raised to a multiple of a micro-batch on each GPU\n";
  if (std::any_of(plan.rows.begin(), plan.rows.end(), [](const auto& row) { return !row.fits; })) {
    text += "! more than a GPU has\n";
  }
  return text + limits(plan);
}

std::string memory_json(const MemoryPlan& memory) {
  return fmt::format(
      "{{\"weights\":{},\"gradients\":{},\"optimizer\":{},\"activations\":{},\"total\":{}}}",
      memory.weights, memory.gradients, memory.optimizer, memory.activations, memory.total());
}

std::string json(const Plan& plan) {
  const RunPlan& run = plan.run;
  std::string rows;
  for (const ScalingRow& row : plan.rows) {
    rows += fmt::format(
        "{}{{\"gpus\":{},\"tokens_per_step\":{},\"accumulation\":{},\"memory_bytes\":{},"
        "\"memory_with_overhead_bytes\":{:.0f},\"fits\":{},\"step_ms\":{},\"compute_ms\":{},"
        "\"communication_ms\":{},\"exposed_ms\":{},\"slowed_ms\":{},\"tokens_per_second\":{},"
        "\"checkpoint_seconds\":{}}}",
        rows.empty() ? "" : ",", row.gpus, row.batch.tokens_per_step, row.batch.accumulation,
        memory_json(row.memory), row.memory_bytes, row.fits, row.step.total() * 1e3,
        row.step.compute * 1e3, row.step.communication * 1e3, row.step.exposed * 1e3,
        row.step.slowed * 1e3, row.tokens_per_second, row.checkpoint_seconds);
  }
  return fmt::format(
      "{{\"parameters\":{},\"ranks\":{},\"steps\":{},\"tokens_per_step\":{},\"accumulation\":{},"
      "\"memory_bytes\":{},\"flops_per_token\":{},\"flops_total\":{},\"tokens\":{},"
      "\"scaling\":[{}]}}\n",
      run.parameters, run.ranks, run.batch.steps, run.batch.tokens_per_step, run.batch.accumulation,
      memory_json(run.memory), run.flops_per_token, run.flops_total, plan.config.train.tokens,
      rows);
}

// 1, 2, 4, ... and the number that was asked for.
std::vector<int> gpu_counts(int asked) {
  std::vector<int> counts;
  for (int count = 1; count <= most_gpus; count *= 2) {
    counts.push_back(count);
  }
  if (std::find(counts.begin(), counts.end(), asked) == counts.end()) {
    counts.insert(std::upper_bound(counts.begin(), counts.end(), asked), asked);
  }
  return counts;
}

// The machine of the command line, or the one beside the configuration; none for a plan on CPUs
// that names none, and where there is no such file.
void find_machine(const PlanOptions& options, Plan& plan) {
  std::string path = options.machine;
  if (path.empty()) {
    const auto standard =
        std::filesystem::path(options.config).parent_path() / "machines" / "h200.yaml";
    if (plan.device == Device::cuda && std::filesystem::exists(standard)) {
      path = standard.string();
    }
  }
  if (!path.empty()) {
    plan.machine = load_machine(path);
    plan.machine_source = path;
  }
  if (options.measured.empty()) {
    return;
  }
  if (!plan.machine) {
    throw ConfigError(
        "--measured needs a machine for what was not measured (network, storage): give --machine");
  }
  std::vector<BenchFigures> results;
  for (const std::string& file : options.measured) {
    results.push_back(load_bench(file));
  }
  plan.machine = calibrate(*plan.machine, plan.config, plan.device, plan.dtype, results);
  plan.machine_source = fmt::format("{} measured results over {}", results.size(), path);
}

void predict(const PlanOptions& options, Plan& plan) {
  const std::vector<int> counts = gpu_counts(options.ranks);
  plan.rows = predict_scaling(plan.config, *plan.machine, plan.device, plan.dtype, counts);
  const StepWork work = step_work(plan.config, plan.device, plan.dtype);
  const auto most = [&](int gpus) {
    return static_cast<int64_t>(
        most_parameters(*plan.machine, work, double(plan.run.memory.activations), gpus));
  };
  plan.parameters_at_8 = most(a_node);
  plan.parameters_at_most = most(most_gpus);
}

int run_plan(const PlanOptions& options) {
  Plan plan;
  plan.config = load_config(options.config, options.overrides);
  plan.device = plan.config.distributed.device == "cpu" ? Device::cpu : Device::cuda;
  plan.dtype = choose_dtype(plan.config.precision, plan.device);
  plan.run =
      plan_run(config_for_gpus(plan.config, options.ranks), plan.device, plan.dtype, options.ranks);
  find_machine(options, plan);
  std::fputs(run_table(plan).c_str(), stdout);
  if (plan.machine) {
    predict(options, plan);
    std::fputs(scaling_table(plan).c_str(), stdout);
  } else {
    std::puts("no times: give the machine with --machine, such as configs/machines/h200.yaml");
  }
  if (!options.save_machine.empty()) {
    if (!plan.machine) {
      throw ConfigError("--save-machine: there is no machine to save; give --machine");
    }
    write_text_file(options.save_machine,
                    to_yaml(*plan.machine, {"From " + plan.machine_source + "."}));
  }
  if (!options.json.empty()) {
    write_text_file(options.json, json(plan));
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
  command->add_option("--machine", options->machine,
                      "What a machine can do (YAML); default: machines/h200.yaml beside CONFIG");
  command->add_option("--measured", options->measured,
                      "Results of gsa bench step|comm --json, over the machine's constants");
  command->add_option("--save-machine", options->save_machine,
                      "Write the machine's constants to this file");
  command->add_option("--json", options->json, "Also write the plan to this file as JSON");
  command->footer(footer);
  command->callback(
      [options, &action] { action.alone = [options] { return run_plan(*options); }; });
}

}  // namespace gsa
