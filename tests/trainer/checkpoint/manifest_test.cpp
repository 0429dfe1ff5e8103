#include "trainer/checkpoint/manifest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "trainer/checkpoint/files.h"

namespace gsa {
namespace {

using ::testing::HasSubstr;

Manifest sample() {
  Manifest manifest;
  manifest.metadata.step = 1000;
  manifest.metadata.optimizer_step = 999;
  manifest.metadata.tokens_seen = int64_t{1} << 40;
  manifest.metadata.next_sample = 12345;
  manifest.metadata.seed = -42;
  manifest.metadata.recent_losses = {1.0 / 3, 2.5, 1e-300};
  manifest.metadata.ranks = 2;
  manifest.metadata.config = "a: \"quoted\\\"\n\tb: tést\x01\n";
  manifest.metadata.versions = {{"gsa", "0.1"}, {"hdf5", "1.10.8"}};
  manifest.files = {{"rank-0000.h5", {10, 0xffffffffffffffffU}},
                    {"rank-0001.h5", {11, 1}},
                    {"model.h5", {12, 0}}};
  return manifest;
}

std::string error_of(const std::string& text) {
  try {
    parse_manifest(text, "here/manifest.json");
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "";
}

TEST(Manifest, ReadsBackWhatItWrites) {
  const std::string text = manifest_text(sample());
  const Manifest manifest = parse_manifest(text, "manifest.json");
  EXPECT_EQ(manifest_text(manifest), text);
  EXPECT_EQ(manifest.metadata.config, sample().metadata.config);
  EXPECT_EQ(manifest.metadata.seed, -42);
  EXPECT_EQ(manifest.metadata.recent_losses, sample().metadata.recent_losses);
  EXPECT_EQ(manifest.metadata.ranks, 2);
  EXPECT_EQ(manifest.metadata.versions, sample().metadata.versions);
  ASSERT_EQ(manifest.files.size(), 3U);
  EXPECT_EQ(manifest.files[0].digest, sample().files[0].digest);
}

TEST(Manifest, ReadsVersion1) {
  // As the first version of this program wrote it.
  const std::string text =
      "{\n  \"format\": \"gsa checkpoint\",\n  \"version\": 1,\n  \"step\": 10,\n"
      "  \"optimizer_step\": 9,\n  \"tokens_seen\": 2560,\n  \"next_sample\": 80,\n"
      "  \"seed\": 1,\n  \"ranks\": 1,\n  \"config\": \"x\",\n  \"versions\": {},\n"
      "  \"files\": [\n"
      "    {\"name\": \"rank-0000.h5\", \"bytes\": 1, \"xxh3\": \"0000000000000001\"},\n"
      "    {\"name\": \"model.h5\", \"bytes\": 2, \"xxh3\": \"0000000000000002\"}\n  ],\n";
  const Manifest manifest =
      parse_manifest(text + "  \"xxh3\": \"" + text_checksum(text) + "\"\n}\n", "manifest.json");
  EXPECT_EQ(manifest.metadata.step, 10);
  EXPECT_TRUE(manifest.metadata.recent_losses.empty());
}

TEST(Manifest, FindsEveryChangedBit) {
  const std::string text = manifest_text(sample());
  for (size_t position = 0; position < text.size(); ++position) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = text;
      damaged[position] = static_cast<char>(damaged[position] ^ (1 << bit));
      EXPECT_NE(error_of(damaged), "") << "bit " << bit << " of byte " << position;
    }
  }
}

TEST(Manifest, FindsEveryTruncationAndAddition) {
  const std::string text = manifest_text(sample());
  for (size_t length = 0; length < text.size(); ++length) {
    EXPECT_NE(error_of(text.substr(0, length)), "") << "cut to " << length;
  }
  EXPECT_THAT(error_of(text + " "), HasSubstr("goes on after its end"));
}

TEST(Manifest, SaysWhatAForeignFileIs) {
  EXPECT_THAT(error_of("{\"weights\": [1, 2]}"),
              HasSubstr("here/manifest.json: this is not the manifest of a checkpoint"));
  std::string newer = manifest_text(sample());
  const std::string version = "\"version\": 2";
  newer.replace(newer.find(version), version.size(), "\"version\": 3");
  EXPECT_THAT(error_of(newer), HasSubstr("written in version 3 of the format"));
}

TEST(Manifest, TakesNoPathsForNames) {
  Manifest manifest = sample();
  manifest.files[0].name = "../rank-0000.h5";
  EXPECT_THAT(error_of(manifest_text(manifest)), HasSubstr("must be a plain one"));
}

TEST(Manifest, KnowsWhichFilesBelongToACheckpoint) {
  Manifest missing = sample();
  missing.files.pop_back();
  EXPECT_THAT(error_of(manifest_text(missing)), HasSubstr("model.h5 is not listed"));
  Manifest twice = sample();
  twice.files[1] = twice.files[0];
  EXPECT_THAT(error_of(manifest_text(twice)), HasSubstr("rank-0000.h5 does not belong"));
}

}  // namespace
}  // namespace gsa
