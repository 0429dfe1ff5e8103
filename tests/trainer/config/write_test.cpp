#include <gtest/gtest.h>

#include "trainer/config/config.h"

namespace gsa {
namespace {

TEST(ToYaml, ReadsBackToTheSameText) {
  Config config;
  config.run.directory = "with: colon # and hash";
  config.run.name = "null";
  config.train.tokens = 123'456'789'012'345;
  config.optimizer.lr = 0.1 + 0.2;
  config.model.tie_embeddings = true;
  config.data.validation = " quote \" and \\ and\nnewline ";
  config.data.train = {{"a: b", 1.0 / 3}, {"~", 2}, {"-", 1e-300}};
  const std::string text = to_yaml(config);
  const Config back = parse_config(text, "x.yaml");
  EXPECT_EQ(to_yaml(back), text);
  EXPECT_EQ(back.run.directory, config.run.directory);
  EXPECT_EQ(back.run.name, config.run.name);
  EXPECT_EQ(back.train.tokens, config.train.tokens);
  EXPECT_EQ(back.optimizer.lr, config.optimizer.lr);
  EXPECT_TRUE(back.model.tie_embeddings);
  EXPECT_EQ(back.data.validation, config.data.validation);
  EXPECT_EQ(back.data.train, config.data.train);
}

TEST(ToYaml, DefaultsReadBack) {
  Config config;
  config.train.tokens = 1;
  const Config back = parse_config(to_yaml(config), "x.yaml");
  EXPECT_EQ(to_yaml(back), to_yaml(config));
  EXPECT_TRUE(back.data.train.empty());
}

TEST(ConfigReference, TellsTypeDefaultAndRuleOfEachKey) {
  const std::string text = config_reference();
  EXPECT_NE(text.find("### model: the language model's sizes"), std::string::npos);
  EXPECT_NE(text.find("| slots "), std::string::npos);
  EXPECT_NE(text.find("(a multiple of 16, at most 1048576)"), std::string::npos);
  EXPECT_NE(text.find("cosine \\| wsd \\| constant"), std::string::npos);
  EXPECT_NE(text.find("0.0003"), std::string::npos);
}

}  // namespace
}  // namespace gsa
