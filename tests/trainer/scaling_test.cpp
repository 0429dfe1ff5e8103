// The predictions of `gsa plan`: the arithmetic against numbers worked out by hand, and the
// constants of configs/machines against what was measured.
#include "trainer/scaling.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <iterator>
#include <sstream>

#include "trainer/config/error.h"

namespace gsa {
namespace {

constexpr double gib = 1024.0 * 1024.0 * 1024.0;
constexpr double exact = 1e-12;
const std::string source_dir = GSA_SOURCE_DIR;

// Everything takes a second for 10^9 (products: 10^12) of its units.
Machine round_machine() {
  Machine machine;
  machine.name = "round";
  machine.memory = {.gpu = 10, .overhead = 1, .communication = 1};
  machine.rates = {.products = 1,
                   .gsa = 1,
                   .norms = 1,
                   .loss = 1,
                   .embedding = 1,
                   .optimizer = 1,
                   .other_ms = 0};
  machine.node = {.gpus = 8, .reduce_scatter = {{2, 4}}, .all_gather = {{2, 2}}};
  machine.network = {.gpu_gb_s = 20, .hop_us = 100};
  machine.storage = {.node_gb_s = 2, .total_gb_s = 3};
  return machine;
}

// An embedding of 10^9 parameters, and two buckets of twice that which take 2 s each.
StepWork round_work() {
  StepWork work;
  work.products_flops = 4e12;
  work.embedding_elements = 0.3e9;
  work.bucket_elements = {1e9, 2e9, 2e9};
  work.gradient_bytes = 4;
  work.weight_bytes = 2;
  work.state_bytes = 12;
  return work;
}

TEST(Collective, TakesBandwidthAndALatencyAHop) {
  Machine machine = round_machine();
  machine.node.hop_us = 10;
  const BandwidthByGpus bandwidth = {{2, 100}, {8, 300}};
  constexpr double bytes = 16e9;
  EXPECT_EQ(collective_seconds(machine, bandwidth, bytes, 1), 0);
  // 4 GPUs: as measured with 2, the next fewer; three hops.
  EXPECT_NEAR(collective_seconds(machine, bandwidth, bytes, 4), 0.12 + 30e-6, exact);
  // 16 GPUs: two nodes, whose links carry 8 x 20 GB/s; 14 hops inside them and one between.
  EXPECT_NEAR(collective_seconds(machine, bandwidth, bytes, 16), 0.09375 + 240e-6, exact);
  machine.network.gpu_gb_s = 1000;
  EXPECT_NEAR(collective_seconds(machine, bandwidth, bytes, 16), 0.05 + 240e-6, exact);
}

TEST(PredictedStep, OneGpuComputesAlone) {
  const StepTime step = predict_step(round_machine(), round_work(), 1, 1);
  EXPECT_NEAR(step.compute, 0.3 + 4 + 5, exact);
  EXPECT_EQ(step.communication, 0);
  EXPECT_EQ(step.exposed, 0);
  EXPECT_EQ(step.slowed, 0);
}

TEST(PredictedStep, OverlapsAsTheOptimizerQueuesIt) {
  // Two GPUs. A step ends as the last update does; gathering the three buckets ends 1.5 s before
  // that, at it, and 1 s after. Forward: 0.1, 2/3, then 2/3 from 1.0 on: waited 0.2333.
  // Backward: 1.3333 to 3.0, 4.3333, and 0.2 to 4.5333; the reductions of 1, 1 and 0.5 s end at
  // 4.0, 5.3333, 5.8333: waited 1.3. The updates take 0.5, 1 and 1 s.
  Machine machine = round_machine();
  machine.node.slowdown = 0.1;
  for (const int64_t accumulation : {1, 2, 5}) {
    const StepTime step = predict_step(machine, round_work(), 2, accumulation);
    EXPECT_NEAR(step.compute, 4.3 * double(accumulation) + 2.5, exact);
    EXPECT_NEAR(step.communication, 5.0, exact);
    EXPECT_NEAR(step.exposed, 0.7 / 3 + 1.3, exact);
    EXPECT_NEAR(step.slowed, 0.1 * (5.0 - 0.7 / 3 - 1.3), exact);
    EXPECT_NEAR(step.total(), step.compute + step.exposed + step.slowed, exact);
  }
}

TEST(PredictedStep, IsSlowedByWhatCommunicates) {
  Machine machine = round_machine();
  machine.node.slowdown = 0;
  machine.network.slowdown = 0.5;
  EXPECT_EQ(predict_step(machine, round_work(), machine.node.gpus, 1).slowed, 0);
  const StepTime step = predict_step(machine, round_work(), 2 * machine.node.gpus, 1);
  EXPECT_NEAR(step.slowed, 0.5 * (step.communication - step.exposed), exact);
}

TEST(Checkpoint, IsWrittenByAllNodesUpToWhatTheStorageTakes) {
  EXPECT_NEAR(checkpoint_seconds(round_machine(), 1e9, 1), 6, exact);
  EXPECT_NEAR(checkpoint_seconds(round_machine(), 1e9, 8), 6, exact);
  EXPECT_NEAR(checkpoint_seconds(round_machine(), 1e9, 16), 4, exact);
}

TEST(MostParameters, AreBoundByWhatIsWholeOnEachGpu) {
  // 10 GiB, of which 1 + 1 of overhead and 2 of activations; 2 + 4 + 12/12 bytes a parameter.
  EXPECT_NEAR(most_parameters(round_machine(), round_work(), 2 * gib, 12), 6 * gib / 7, 1);
  // One GPU has no communication's buffers: 7 GiB, 18 bytes a parameter.
  EXPECT_NEAR(most_parameters(round_machine(), round_work(), 2 * gib, 1), 7 * gib / 18, 1);
  EXPECT_EQ(most_parameters(round_machine(), round_work(), 20 * gib, 8), 0);
}

class H200 : public testing::Test {
 protected:
  static Config config(const std::string& name, const std::vector<std::string>& overrides = {}) {
    return load_config(source_dir + "/configs/" + name + ".yaml", overrides);
  }
  static ScalingRow predict(const Config& config, int gpus) {
    const Machine machine = load_machine(source_dir + "/configs/machines/h200.yaml");
    const int counts[] = {gpus};
    return predict_scaling(config, machine, Device::cuda, DType::bfloat16, counts).front();
  }
  static std::vector<BenchFigures> measured() {
    std::vector<BenchFigures> results;
    for (const char* name : {"step2", "comm2", "step1"}) {
      results.push_back(load_bench(source_dir + "/tests/bench/h200/" + name + ".json"));
    }
    return results;
  }
  static constexpr double within = 0.05;
};

TEST_F(H200, StepsAndMemoryAreWithinFivePercentOfMeasured) {
  const std::string alone = "train.batch_tokens=0";
  for (const BenchFigures& figures : measured()) {
    if (!figures.has("step_ms")) {
      continue;
    }
    const ScalingRow row =
        predict(config("gsa-1.3b", {alone}), static_cast<int>(figures.at("ranks")));
    EXPECT_NEAR(row.step.total() * 1e3 / figures.at("step_ms"), 1, within) << figures.source;
    // With buffers and arena as they were then; what is planned now is held to later results below.
    const double overhead = (row.memory_bytes - double(row.memory.total())) / gib;
    EXPECT_NEAR((overhead + figures.at("buffers_gib") + figures.at("arena_gib")) /
                    figures.at("peak_memory_gib"),
                1, within);
    EXPECT_TRUE(row.fits);
  }
}

TEST_F(H200, WhatTheConstantsWereNotMadeFromIsWithinFivePercentToo) {
  struct Measured {
    const char* config;
    const char* override;
    double step_ms;
    double peak_gib;
  };
  // tests/bench/RESULTS.md, 2026-11-30: one micro-batch a step, the same with less kept, eight,
  // and the 2.7B model. Memory is counted: it is to be far closer than time.
  constexpr double memory_within = 0.005;
  for (const Measured& measured :
       {Measured{"gsa-1.3b", "train.batch_tokens=0", 232.9, 42.91},
        Measured{"gsa-1.3b", "train.batch_tokens=0 train.recompute=norms", 234.6, 38.41},
        Measured{"gsa-1.3b", "train.batch_tokens=131072", 1795, 47.59},
        Measured{"gsa-2.7b", "train.batch_tokens=0", 460.5, 75.43}}) {
    std::istringstream words(measured.override);
    const std::vector<std::string> overrides{std::istream_iterator<std::string>(words), {}};
    const ScalingRow row = predict(config(measured.config, overrides), 1);
    EXPECT_NEAR(row.step.total() * 1e3 / measured.step_ms, 1, within) << measured.override;
    EXPECT_NEAR(row.memory_bytes / gib / measured.peak_gib, 1, memory_within) << measured.override;
  }
}

TEST_F(H200, ConstantsFollowFromTheRecordedResults) {
  const Machine machine = load_machine(source_dir + "/configs/machines/h200.yaml");
  const Machine again =
      calibrate(machine, config("gsa-1.3b"), Device::cuda, DType::bfloat16, measured());
  EXPECT_EQ(to_yaml(again), to_yaml(machine));
}

// A node's slowdown is that of copies where they were measured, a network's that of NCCL's kernels.
TEST_F(H200, CopiesAndKernelsAreToldApart) {
  const Machine before = load_machine(source_dir + "/configs/machines/h200.yaml");
  const auto constants = [&](const std::vector<BenchFigures>& results) {
    return calibrate(before, config("gsa-1.3b"), Device::cuda, DType::bfloat16, results);
  };
  std::vector<BenchFigures> by_nccl;
  std::vector<BenchFigures> by_copies;
  std::vector<BenchFigures> both;
  for (BenchFigures figures : measured()) {
    const bool several = figures.at("ranks") > 1;
    figures.texts["transport"] = "NCCL (no copies between GPUs: a reason)";
    by_nccl.push_back(figures);
    both.push_back(figures);
    if (several) {
      figures.texts["transport"] = "copies between GPUs";
      if (figures.has("step_ms")) {
        figures.values.at("step_ms") -= 5;
      }
      both.insert(both.begin(), figures);
    }
    by_copies.push_back(figures);
  }
  const double kernels = constants(by_nccl).node.slowdown;
  EXPECT_GT(kernels, 0);
  EXPECT_EQ(constants(by_nccl).network.slowdown, kernels);
  const double copies = constants(by_copies).node.slowdown;
  EXPECT_LT(copies, kernels);
  EXPECT_EQ(constants(by_copies).network.slowdown, before.network.slowdown);
  EXPECT_EQ(constants(both).node.slowdown, copies);
  EXPECT_EQ(constants(both).network.slowdown, kernels);
}

TEST_F(H200, ResultsOfAnotherModelAreRefused) {
  const Machine machine = load_machine(source_dir + "/configs/machines/h200.yaml");
  EXPECT_THROW(calibrate(machine, config("gsa-2.7b"), Device::cuda, DType::bfloat16, measured()),
               ConfigError);
  std::vector<BenchFigures> without = measured();
  without.pop_back();
  EXPECT_THROW(calibrate(machine, config("gsa-1.3b"), Device::cuda, DType::bfloat16, without),
               ConfigError);
}

TEST_F(H200, BatchesGrowWhereTheyDoNotDivide) {
  EXPECT_FALSE(predict(config("gsa-1.3b"), 32).batch_grew);
  const ScalingRow many = predict(config("gsa-1.3b"), 1024);
  EXPECT_TRUE(many.batch_grew);
  EXPECT_EQ(many.batch.accumulation, 1);
  EXPECT_EQ(many.batch.tokens_per_step, int64_t{1024} * 8 * 2048);
  EXPECT_EQ(predict(config("gsa-1.3b"), 24).batch.tokens_per_step, int64_t{2} * 24 * 8 * 2048);
}

TEST_F(H200, ModelsThatZeroCannotHoldAreSaidNotToFit) {
  const Config huge =
      config("gsa-2.7b", {"model.hidden=8192", "model.heads=16", "model.layers=48"});
  EXPECT_FALSE(predict(huge, 1).fits);
  EXPECT_FALSE(predict(huge, 1024).fits);
}

}  // namespace
}  // namespace gsa
