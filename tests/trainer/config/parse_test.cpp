#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "tests/trainer/config/expect_error.h"

namespace gsa {
namespace {

using Mixture = std::vector<std::pair<std::string, double>>;

constexpr const char* kTokens = "train: {tokens: 1M}\n";

TEST(ParseConfig, ReadsEveryTypeAndLeavesTheRestAtDefaults) {
  const Config config = parse_config(R"(
run:
  name: small-1
model:
  slots: 32
  tie_embeddings: true
train:
  tokens: 0.5M
optimizer:
  lr: 2e-3
)",
                                     "x.yaml");
  EXPECT_EQ(config.run.name, "small-1");
  EXPECT_EQ(config.model.slots, 32);
  EXPECT_TRUE(config.model.tie_embeddings);
  EXPECT_EQ(config.train.tokens, 500'000);
  EXPECT_EQ(config.optimizer.lr, 2e-3);
  EXPECT_EQ(config.model.hidden, ModelConfig().hidden);
  EXPECT_EQ(config.checkpoint.every, CheckpointConfig().every);
}

TEST(ParseConfig, TrainingDataIsAFolderOrAMixture) {
  const std::string tokens = kTokens;
  EXPECT_EQ(parse_config(tokens + "data: {train: a/b}", "x").data.train, (Mixture{{"a/b", 1.0}}));
  EXPECT_EQ(
      parse_config(tokens + "data:\n  train:\n    web: 0.7\n    books: 3e-1\n", "x").data.train,
      (Mixture{{"web", 0.7}, {"books", 0.3}}));
  EXPECT_EQ(parse_config(tokens + "data: {train: {}}", "x").data.train, Mixture());
}

TEST(ParseConfig, UnknownNamesAreRefusedWithTheNearestOne) {
  EXPECT_EQ(refusal("model:\n  hidden: 1024\n  slot: 64\n"),
            "x.yaml:3: unknown key model.slot; did you mean model.slots?");
  EXPECT_EQ(refusal("modle:\n  slots: 64\n"), "x.yaml:1: unknown group modle; did you mean model?");
  EXPECT_EQ(refusal("model:\n  lr: 1e-3\n"),
            "x.yaml:2: unknown key model.lr; did you mean optimizer.lr?");
  EXPECT_EQ(refusal("lr: 1e-3\n"), "x.yaml:1: unknown group lr; did you mean optimizer.lr?");
  EXPECT_EQ(refusal("log:\n  tensorboard: true\n"),
            "x.yaml:2: unknown key log.tensorboard; the keys of log are every, level");
  EXPECT_EQ(refusal("\n\nwandb: {}\n"),
            "x.yaml:3: unknown group wandb; the groups are run, model, data, train, optimizer, "
            "schedule, precision, distributed, checkpoint, log");
}

TEST(ParseConfig, WrongTypesAreRefused) {
  const std::string count =
      "a count: a whole number such as 64, 16K, 0.5M, 100B or 1e9, at most 1e18";
  EXPECT_EQ(refusal("model:\n  slots: many\n"),
            fmt::format("x.yaml:2: model.slots must be {} (got \"many\")", count));
  EXPECT_EQ(refusal("model:\n  slots: \"64\"\n"),
            fmt::format("x.yaml:2: model.slots must be {} (got \"64\")", count));
  EXPECT_EQ(refusal("model:\n  slots: 1.5\n"),
            fmt::format("x.yaml:2: model.slots must be {} (got \"1.5\")", count));
  EXPECT_EQ(refusal("model:\n  slots: [64]\n"),
            fmt::format("x.yaml:2: model.slots must be {} (got a list)", count));
  EXPECT_EQ(refusal("model:\n  slots:\n"),
            fmt::format("x.yaml:2: model.slots must be {} (got nothing)", count));
  EXPECT_EQ(refusal("model:\n  tie_embeddings: yes\n"),
            "x.yaml:2: model.tie_embeddings must be true or false (got \"yes\")");
  EXPECT_EQ(refusal("optimizer: {lr: .inf}\n"),
            "x.yaml:1: optimizer.lr must be a number such as 0.1 or 3e-4 (got \".inf\")");
  EXPECT_EQ(refusal("run:\n  name: {a: b}\n"), "x.yaml:2: run.name must be text (got a map)");
  EXPECT_EQ(refusal("data:\n  train: {a: much}\n"),
            "x.yaml:2: data.train must be a folder, or a map of folders to weights such as "
            "{a: 0.7, b: 0.3} (got a map)");
  EXPECT_EQ(refusal("model: 3\n"),
            "x.yaml:1: model is a group: it must be a map of keys (got \"3\")");
}

TEST(ParseConfig, ANameGivenTwiceIsRefused) {
  EXPECT_EQ(refusal("model:\n  slots: 64\n  hidden: 64\n  slots: 32\n"),
            "x.yaml:4: model.slots is given twice; keep one of them");
  EXPECT_EQ(refusal("model: {slots: 64}\nmodel: {hidden: 64}\n"),
            "x.yaml:2: model is given twice; keep one of them");
}

TEST(ParseConfig, BrokenYamlNamesTheLine) {
  EXPECT_TRUE(refusal("model:\n  slots: [64\n").starts_with("x.yaml:3: not valid YAML: "))
      << refusal("model:\n  slots: [64\n");
  EXPECT_TRUE(refusal("model:\n\tslots: 64\n").starts_with("x.yaml:2: not valid YAML: "))
      << refusal("model:\n\tslots: 64\n");
  EXPECT_EQ(refusal("a: 1\n---\nb: 2\n"),
            "x.yaml: a configuration is one YAML document (got more than one)");
  EXPECT_EQ(refusal(", model"), "x.yaml: a configuration is one YAML document (got more than one)");
  EXPECT_EQ(refusal("- model\n"),
            "x.yaml:1: a configuration is a map of groups such as model: (got a list)");
  EXPECT_EQ(refusal("[a]: 1\n"), "x.yaml:1: a name was expected (got a list)");
  EXPECT_NE(refusal(std::string(100'000, '[')), "");
}

TEST(ParseConfig, OverridesWinAndTheLastOneMost) {
  const Config config =
      parse_config("model: {slots: 64}\ntrain: {tokens: 1M}\n", "x.yaml",
                   {"model.slots=32", "optimizer.lr=2e-4", "run.name=a", "run.name=b",
                    "data.train=d", "data.validation=a b: c", "train.tokens=2M"});
  EXPECT_EQ(config.model.slots, 32);
  EXPECT_EQ(config.optimizer.lr, 2e-4);
  EXPECT_EQ(config.run.name, "b");
  EXPECT_EQ(config.data.train, (Mixture{{"d", 1.0}}));
  EXPECT_EQ(config.data.validation, "a b: c");
  EXPECT_EQ(config.train.tokens, 2'000'000);
  EXPECT_EQ(parse_config(kTokens, "x", {"data.train={a: 1, b: 2}"}).data.train,
            (Mixture{{"a", 1.0}, {"b", 2.0}}));
}

TEST(ParseConfig, WrongOverridesAreNamed) {
  EXPECT_EQ(refusal(kTokens, {"model.slots=20"}),
            "override model.slots=20: model.slots must be a multiple of 16 (got 20)");
  EXPECT_EQ(refusal(kTokens, {"model.slot=64"}),
            "override model.slot=64: unknown key model.slot; did you mean model.slots?");
  EXPECT_EQ(refusal(kTokens, {"optimiser.lr=1"}),
            "override optimiser.lr=1: unknown group optimiser; did you mean optimizer?");
  EXPECT_EQ(refusal(kTokens, {"lr=1"}),
            "override lr=1: an override is written group.key=value, such as optimizer.lr=2e-4");
  EXPECT_EQ(refusal(kTokens, {"optimizer.lr="}),
            "override optimizer.lr=: optimizer.lr must be a number such as 0.1 or 3e-4 (got \"\")");
  EXPECT_NE(refusal(kTokens, {"data.train={a: "}), "");
}

TEST(ParseConfig, AnOverrideRepairsTheFile) {
  EXPECT_EQ(refusal("model: {slots: 20}\ntrain: {tokens: 1M}\n", {"model.slots=32"}), "");
}

class LoadConfig : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "gsa-config-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path folder_;
};

TEST_F(LoadConfig, ReadsAFileAndNamesItInMessages) {
  const std::string path = folder_ / "a.yaml";
  std::ofstream(path) << "train:\n  tokens: 1M\nmodel:\n  slots: 20\n";
  EXPECT_EQ(load_config(path, {"model.slots=16"}).model.slots, 16);
  try {
    load_config(path);
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_EQ(error.what(), path + ":4: model.slots must be a multiple of 16 (got 20)");
  }
}

TEST_F(LoadConfig, WhatCannotBeReadIsRefused) {
  const std::string missing = folder_ / "missing.yaml";
  for (const std::string& path : {missing, folder_.string()}) {
    try {
      load_config(path);
      FAIL() << path;
    } catch (const ConfigError& error) {
      EXPECT_TRUE(
          std::string(error.what()).starts_with(path + ": cannot read this configuration: "))
          << error.what();
    }
  }
}

}  // namespace
}  // namespace gsa
