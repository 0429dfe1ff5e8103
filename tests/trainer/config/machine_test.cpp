// Machines' constants and benchmark results, as files.
#include "trainer/config/machine.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "trainer/config/error.h"

namespace gsa {
namespace {

Machine machine() {
  Machine machine;
  machine.name = "a GPU of some kind";
  machine.memory = {.gpu = 80, .overhead = 0.5, .communication = 0};
  machine.rates = {.products = 400,
                   .gsa = 30,
                   .norms = 100,
                   .loss = 300,
                   .embedding = 90,
                   .optimizer = 70,
                   .other_ms = 0.25};
  machine.node = {.gpus = 4,
                  .reduce_scatter = {{2, 200}, {4, 250.5}},
                  .all_gather = {{4, 240}},
                  .hop_us = 3,
                  .slowdown = 0.125};
  machine.network = {.gpu_gb_s = 25, .hop_us = 14, .slowdown = 0.5};
  machine.storage = {.node_gb_s = 2, .total_gb_s = 20};
  return machine;
}

std::string message_of(const std::string& text) {
  try {
    parse_machine(text, "m.yaml");
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no error";
}

// The text above with one part replaced.
std::string changed(const std::string& from, const std::string& to) {
  std::string text = to_yaml(machine());
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from << " in\n" << text;
  return text.replace(at, from.size(), to);
}

TEST(MachineFile, ReadsBackWhatWasWritten) {
  const std::string text = to_yaml(machine(), {"measured", "somewhere"});
  EXPECT_TRUE(text.starts_with("# measured\n# somewhere\nname: a GPU of some kind\n")) << text;
  const Machine read = parse_machine(text, "m.yaml");
  EXPECT_EQ(to_yaml(read), to_yaml(machine()));
  EXPECT_EQ(read.node.gpus, 4);
  EXPECT_EQ(read.node.reduce_scatter, machine().node.reduce_scatter);
  EXPECT_EQ(read.rates.other_ms, 0.25);
}

TEST(MachineFile, NamesWhatIsWrongAndWhere) {
  EXPECT_EQ(message_of(changed("gsa_tflops", "gsa_tflop")),
            "m.yaml:8: unknown key gsa_tflop; did you mean gsa_tflops?");
  EXPECT_EQ(message_of(changed("gpu_gib: 80", "gpu_gib: much")),
            "m.yaml:3: memory.gpu_gib must be a number above 0");
  EXPECT_EQ(message_of(changed("other_ms: 0.25", "other_ms: -1")),
            "m.yaml:13: rates.other_ms must be a number of at least 0");
  EXPECT_EQ(message_of(changed("{4: 240}", "240")),
            "m.yaml:17: node.all_gather_gb_s must be a map such as {2: 300, 8: 350}");
  EXPECT_EQ(message_of(changed("gpus: 4", "gpus: 0")),
            "m.yaml:15: node.gpus must be a number of GPUs");
  EXPECT_EQ(message_of("name: x\n"), "m.yaml:1: a machine must have a key memory");
  EXPECT_EQ(message_of("[1, 2]"), "m.yaml:1: a machine must be a map");
  EXPECT_THROW(load_machine("nowhere/m.yaml"), ConfigError);
}

TEST(BenchResults, AreReadFromTheirJson) {
  const auto path = std::filesystem::temp_directory_path() / "gsa-machine-test.json";
  std::ofstream(path) << R"({"device":"GPU 9","ranks":2,"step_ms":1.5e2,)"
                      << R"("phases_ms":{"products":100.25,"gsa":30}})"
                      << "\n";
  const BenchFigures figures = load_bench(path.string());
  EXPECT_EQ(figures.texts.at("device"), "GPU 9");
  EXPECT_EQ(figures.at("step_ms"), 150);
  EXPECT_EQ(figures.phases_ms.at("products"), 100.25);
  EXPECT_FALSE(figures.has("copy_tb_s"));
  EXPECT_THROW(static_cast<void>(figures.at("copy_tb_s")), ConfigError);
  std::ofstream(path) << "{\"loss\":1}";
  EXPECT_THROW(load_bench(path.string()), ConfigError);
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace gsa
