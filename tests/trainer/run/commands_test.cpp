// The commands beside training.
#include <gtest/gtest.h>

#include <filesystem>

#include "tests/trainer/run/program.h"

namespace gsa::test {
namespace {

constexpr int bad_usage = 2;
constexpr int stopped = 75;

class Commands : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    place_ = std::make_unique<Workplace>();
    const Outcome trained = place_->gsa("train tiny.yaml train.stop_after_steps=30");
    ASSERT_EQ(trained.exit_code, stopped) << trained.output;
  }
  static void TearDownTestSuite() { place_.reset(); }

  static std::string output_of(const std::string& arguments) {
    const Outcome outcome = place_->gsa(arguments);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
    return outcome.output;
  }
  static void expect(const std::string& arguments, const std::vector<std::string>& words) {
    const std::string output = output_of(arguments);
    for (const std::string& word : words) {
      EXPECT_NE(output.find(word), std::string::npos) << word << " in\n" << output;
    }
  }

  static std::unique_ptr<Workplace> place_;
};

std::unique_ptr<Workplace> Commands::place_;

TEST_F(Commands, PlanCountsThePaperModels) {
  const std::string configs = GSA_SOURCE_DIR "/configs/";
  expect("plan " + configs + "gsa-1.3b.yaml", {"1376929792"});
  expect("plan " + configs + "gsa-2.7b.yaml", {"2727856640"});
  expect("plan " + configs + "gsa-340m.yaml --gpus 8 --json plan.json", {"parameters"});
  EXPECT_TRUE(std::filesystem::exists(place_->path() / "plan.json"));
}

TEST_F(Commands, PlanPredictsFromMeasurements) {
  const std::string source = GSA_SOURCE_DIR;
  const std::string config = source + "/configs/gsa-1.3b.yaml";
  expect("plan " + config, {"predicted for NVIDIA H200", "1024 ", "ZeRO-1 stops fitting"});
  const std::string results = source + "/tests/bench/h200/";
  expect("plan " + config + " --gpus 24 --measured " + results + "step1.json " + results +
             "step2.json " + results + "comm2.json --save-machine mine.yaml --json plan.json",
         {"3 measured results", "   24 ", "train.batch_tokens=786432"});
  expect("plan " + config + " --machine mine.yaml", {"NVIDIA H200 (mine.yaml)"});
  expect("plan " + config + " model.hidden=8192 train.micro_batch=32",
         {"does not fit", "train.recompute=norms"});
  expect("plan tiny.yaml", {"no times", "--machine"});
  EXPECT_EQ(place_->gsa("plan " + config + " --machine absent.yaml").exit_code, bad_usage);
}

TEST_F(Commands, GenerateRepeatsWithItsSeed) {
  const std::string command = "generate runs/tiny --prompt gate --tokens 40 --top-k 20 --seed ";
  const auto text = [&](const char* seed) {
    return place_->shell("gsa " + command + seed + " 2>/dev/null").output;
  };
  EXPECT_EQ(text("1"), text("1"));
  EXPECT_NE(text("1"), text("2"));
  EXPECT_EQ(text("1").substr(0, 4), "gate");
}

TEST_F(Commands, EvaluateAgreesWithItselfOnTwoRanks) {
  expect("evaluate runs/tiny --json one.json", {"RedPajamaC4", "RedPajamaBook", "all"});
  const Outcome two = place_->ranks(2, "evaluate runs/tiny --json two.json");
  EXPECT_EQ(two.exit_code, 0) << two.output;
}

TEST_F(Commands, InspectKnowsShardsCheckpointsAndRuns) {
  expect("inspect shards/train", {"RedPajamaC4", "unigram entropy"});
  expect("inspect runs/tiny",
         {"30 steps", "step-00000030: 0.00 GiB in", "training stood still", "first step after"});
  expect("inspect runs/tiny/checkpoints/step-00000030", {"model.embeddings.weight", "257 x 32"});
}

TEST_F(Commands, MegatronsFormatIsWrittenAndTrainedOn) {
  expect("tokenize train.jsonl -o megatron -t bytes --to megatron --part 1/1",
         {"megatron/text_document.bin"});
  const Outcome trained = place_->gsa(
      "train tiny.yaml run.name=from-megatron data.train=megatron/text_document "
      "train.stop_after_steps=30");
  ASSERT_EQ(trained.exit_code, stopped) << trained.output;
  EXPECT_EQ(loss_difference(place_->metrics("from-megatron"), place_->metrics("tiny")), 0);
}

TEST_F(Commands, BenchWritesJson) {
  expect("bench step tiny.yaml --steps 2 --json step.json", {"tokens_per_second", "products"});
  expect("bench checkpoint tiny.yaml --directory here --json checkpoint.json",
         {"stall_seconds", "write_gib_s", "plain_write_gib_s", "slowed_percent"});
  EXPECT_TRUE(std::filesystem::is_empty(place_->path() / "here"));
  expect("bench comm tiny.yaml --json comm.json",
         {"reduce_scatter_ms", "products_ms", "products_beside_reduce_scatter_ms"});
  expect("bench op --device cpu --length 64 --json op.json", {"forward_ms", "backward_ms"});
  expect("bench generate tiny.yaml --batch 2 --prompt 5 --tokens 3 --json generate.json",
         {"tokens_per_second", "first_token_ms", "floor_ms"});
  EXPECT_TRUE(std::filesystem::exists(place_->path() / "generate.json"));
  EXPECT_TRUE(std::filesystem::exists(place_->path() / "step.json"));
  EXPECT_TRUE(std::filesystem::exists(place_->path() / "op.json"));
}

TEST_F(Commands, HelpHasAnExample) {
  for (const char* command :
       {"train", "plan", "tokenize", "inspect", "evaluate", "generate", "bench"}) {
    expect(std::string(command) + " --help", {"xample"});
  }
}

}  // namespace
}  // namespace gsa::test
