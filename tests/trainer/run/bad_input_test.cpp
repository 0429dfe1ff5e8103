// What is wrong ends in one clear message, the right exit code, and earlier checkpoints that serve.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/trainer/run/program.h"

namespace gsa::test {
namespace {

constexpr int bad_usage = 2;
constexpr int bad_data = 3;
constexpr int failed = 4;
constexpr int stopped = 75;

class BadInput : public testing::Test {
 protected:
  static void SetUpTestSuite() { place_ = std::make_unique<Workplace>(); }
  static void TearDownTestSuite() { place_.reset(); }

  static void expect(const Outcome& outcome, int code, const std::vector<std::string>& words) {
    EXPECT_EQ(outcome.exit_code, code) << outcome.output;
    for (const std::string& word : words) {
      EXPECT_NE(outcome.output.find(word), std::string::npos) << word << " in\n" << outcome.output;
    }
  }

  static std::unique_ptr<Workplace> place_;
};

std::unique_ptr<Workplace> BadInput::place_;

TEST_F(BadInput, MisspeltKey) {
  place_->write("bad.yaml", "run: {name: x}\nmodel:\n  slotz: 32\n");
  expect(place_->ranks(2, "train bad.yaml"), bad_usage, {"bad.yaml:3", "slotz", "model.slots"});
}

TEST_F(BadInput, WrongType) {
  place_->write("bad.yaml", "model:\n  hidden: wide\n");
  expect(place_->gsa("train bad.yaml"), bad_usage, {"bad.yaml:2", "model.hidden", "wide"});
}

TEST_F(BadInput, ImpossibleShape) {
  expect(place_->gsa("train tiny.yaml model.slots=20"), bad_usage, {"model.slots", "16", "20"});
}

TEST_F(BadInput, MissingConfiguration) {
  expect(place_->gsa("train nowhere.yaml"), bad_usage, {"nowhere.yaml"});
}

TEST_F(BadInput, UnknownMixer) {
  expect(place_->gsa("train tiny.yaml model.mixer=mamba9"), bad_usage, {"mamba9", "gsa"});
}

TEST_F(BadInput, BatchThatDoesNotDivide) {
  expect(place_->ranks(2, "train tiny.yaml train.batch_tokens=320"), bad_usage,
         {"train.batch_tokens", "320"});
}

TEST_F(BadInput, NoTrainingData) {
  place_->write("bad.yaml",
                "run: {name: nodata}\nmodel: {vocabulary: 257, hidden: 32, layers: 1, heads: "
                "2, slots: 16}\ntrain: {tokens: 1000}\n");
  expect(place_->gsa("train bad.yaml"), bad_usage, {"data.train"});
}

TEST_F(BadInput, MissingShards) {
  expect(place_->ranks(2, "train tiny.yaml run.name=missing data.train=nowhere"), bad_data,
         {"nowhere"});
}

TEST_F(BadInput, TornShard) {
  place_->shell("cp -r shards torn; f=$(ls torn/train/*.gsa | head -1); truncate -s -100 $f");
  expect(place_->ranks(2, "train tiny.yaml run.name=torn data.train=torn/train"), bad_data,
         {"torn/train"});
}

TEST_F(BadInput, TokenPastTheVocabulary) {
  expect(place_->gsa("train tiny.yaml run.name=past model.vocabulary=64"), bad_data, {"64"});
}

TEST_F(BadInput, CheckpointOfAnotherModel) {
  expect(place_->gsa("train tiny.yaml run.name=first train.stop_after_steps=2"), stopped, {});
  expect(place_->gsa("train tiny.yaml run.name=first --resume auto model.intermediate=96"),
         bad_data, {"gate_proj", "64", "96"});
}

TEST_F(BadInput, FreshStartOverARun) {
  expect(place_->gsa("train tiny.yaml run.name=again train.stop_after_steps=2"), stopped, {});
  expect(place_->gsa("train tiny.yaml run.name=again"), bad_usage, {"runs/again", "--resume auto"});
}

TEST_F(BadInput, NoSuchCheckpoint) {
  expect(place_->gsa("generate runs/nowhere --prompt x"), bad_data, {"runs/nowhere"});
}

TEST_F(BadInput, UnwritableFolder) {
  place_->write("file", "");
  expect(place_->ranks(2, "train tiny.yaml run.directory=file/inside"), bad_usage,
         {"file/inside", "run.directory"});
}

TEST_F(BadInput, FullDiskKeepsEarlierCheckpoints) {
  // A limit on the size of files stands for the disk: the first run's checkpoints fit, then none
  // do.
  expect(place_->gsa("train tiny.yaml run.name=full train.stop_after_steps=5"), stopped, {});
  const Outcome outcome = place_->shell(
      "trap '' XFSZ; ulimit -f 24; gsa train tiny.yaml run.name=full --resume auto "
      "checkpoint.every=10");
  expect(outcome, failed, {"checkpoint", "runs/full"});
  const Outcome resumed = place_->gsa("train tiny.yaml run.name=full --resume auto");
  expect(resumed, 0, {"resuming from runs/full/checkpoints/step-00000005"});
}

TEST_F(BadInput, LossThatExplodesStopsTheRun) {
  expect(place_->ranks(2,
                       "train tiny.yaml run.name=explodes model.init_std=1e30 "
                       "train.max_skipped_steps=3"),
         failed, {"skipped", "optimizer.lr"});
}

TEST_F(BadInput, TextWithUnusableDocuments) {
  place_->shell("cp train.jsonl dirty.jsonl; echo broken >> dirty.jsonl");
  const std::string tokenize = "tokenize dirty.jsonl -t bytes -o ";
  expect(place_->gsa(tokenize + "dirty"), bad_data,
         {"dirty.jsonl:61: not_json", "more than the threshold"});
  expect(place_->gsa(tokenize + "dirty --loss-threshold 0.1"), 0, {"dirty.jsonl:61: not_json"});
  expect(place_->gsa(tokenize + "strict --strict"), bad_data, {"dirty.jsonl:61: not_json"});
}

TEST_F(BadInput, WrongUsage) {
  expect(place_->gsa("trane"), bad_usage, {});
  expect(place_->gsa("plan tiny.yaml --gpus none"), bad_usage, {"--gpus"});
  expect(place_->gsa("tokenize train.jsonl -o x -t bytes --part 5/3"), bad_usage, {"--part"});
  expect(place_->gsa("tokenize train.jsonl -o x -t bytes --to numpy"), bad_usage,
         {"--to", "megatron"});
}

}  // namespace
}  // namespace gsa::test
