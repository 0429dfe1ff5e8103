// The configurations that the project ships.
#include <gtest/gtest.h>

#include <filesystem>

#include "trainer/config/config.h"

namespace gsa {
namespace {

const std::filesystem::path kConfigs = std::filesystem::path(GSA_SOURCE_DIR) / "configs";

TEST(ConfigFiles, EveryOneLoads) {
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kConfigs)) {
    if (entry.path().extension() != ".yaml") continue;
    ++files;
    const Config config = load_config(entry.path());
    EXPECT_EQ(config.run.name, entry.path().stem().string());
    EXPECT_FALSE(config.data.train.empty()) << entry.path();
    for (const int ranks : {1, 2, 4}) EXPECT_NO_THROW(resolve_batch(config, ranks)) << entry.path();
  }
  EXPECT_GE(files, 4);
}

TEST(ConfigFiles, LargeOnesAreThePapers) {
  struct Expected {
    const char* file;
    int64_t hidden, layers, heads, width;
  };
  for (const Expected& expected :
       {Expected{"gsa-340m.yaml", 1024, 24, 4, 2816}, Expected{"gsa-1.3b.yaml", 2048, 24, 4, 5632},
        Expected{"gsa-2.7b.yaml", 2560, 32, 5, 6912}}) {
    const Config config = load_config(kConfigs / expected.file);
    EXPECT_EQ(config.model.hidden, expected.hidden);
    EXPECT_EQ(config.model.layers, expected.layers);
    EXPECT_EQ(config.model.heads, expected.heads);
    EXPECT_EQ(config.model.resolved_intermediate(), expected.width);
    EXPECT_EQ(config.model.slots, 64);
    EXPECT_EQ(config.model.vocabulary, 32000);
    EXPECT_EQ(config.data.sequence_length, 2048);
    EXPECT_EQ(config.optimizer.lr, 3e-4);
    EXPECT_EQ(config.optimizer.weight_decay, 0.01);
    EXPECT_EQ(config.optimizer.clip, 1.0);
    EXPECT_EQ(config.schedule.kind, "cosine");
    EXPECT_EQ(config.schedule.warmup_tokens, 1'000'000'000);
    EXPECT_EQ(config.schedule.final_lr, 3e-5);
    for (const int ranks : {8, 16, 32}) EXPECT_NO_THROW(resolve_batch(config, ranks));
  }
}

}  // namespace
}  // namespace gsa
