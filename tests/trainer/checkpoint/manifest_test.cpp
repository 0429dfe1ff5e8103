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
  manifest.metadata.product_library = "NVIDIA H200, cuBLASLt 130100";
  manifest.metadata.products = {{"16384_2048_1", "00ff"}};
  manifest.parameters = {{"embeddings", {37, 13}}, {"a \"scale\"", {1}}};
  const RankFileParts parts{
      .elements = 241, .buffers = {4096, 8192, 12288}, .rows = 2, .ranges = 800};
  manifest.files = {{"rank-0000.h5", {13252, 0xffffffffffffffffU}, parts},
                    {"rank-0001.h5", {11, 1}, {}},
                    {"model.h5", {12, 0}, {}}};
  return manifest;
}

// The sample with another text in place of one of its own, and the right checksum.
std::string changed(const std::string& from, const std::string& to) {
  std::string text = manifest_text(sample());
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  text.replace(at, from.size(), to);
  text.resize(text.rfind("  \"xxh3\": "));
  return text + "  \"xxh3\": \"" + text_checksum(text) + "\"\n}\n";
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
  EXPECT_EQ(manifest.metadata.product_library, sample().metadata.product_library);
  EXPECT_EQ(manifest.metadata.products, sample().metadata.products);
  ASSERT_EQ(manifest.parameters.size(), 2U);
  EXPECT_EQ(manifest.parameters[0].shape, sample().parameters[0].shape);
  EXPECT_EQ(manifest.parameters[1].name, sample().parameters[1].name);
  ASSERT_EQ(manifest.files.size(), 3U);
  EXPECT_EQ(manifest.files[0].digest, sample().files[0].digest);
  EXPECT_EQ(manifest.files[0].parts, sample().files[0].parts);
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
  for (const char* version : {"1", "2", "4", "-3"}) {
    EXPECT_THAT(error_of(changed("\"version\": 3", std::string("\"version\": ") + version)),
                HasSubstr(std::string("written in version ") + version +
                          " of the format; this program reads version 3"));
  }
}

TEST(Manifest, KnowsWhichFilesBelongToACheckpoint) {
  for (const char* other : {"../rank-0000.h5", "rank-0001.h5", "model.h5"}) {
    EXPECT_THAT(error_of(changed("rank-0000.h5", other)), HasSubstr("\"rank-0000.h5\""));
  }
  EXPECT_THAT(error_of(changed("\"ranks\": 2", "\"ranks\": 1")), HasSubstr("\"model.h5\""));
  EXPECT_THAT(error_of(changed("\"ranks\": 2", "\"ranks\": 3")), HasSubstr("\"rank-0002.h5\""));
}

TEST(Manifest, PartsLieInTheirFile) {
  const std::string outside = "the parts of rank-0000.h5 lie outside of it";
  EXPECT_THAT(error_of(changed("\"bytes\": 13252", "\"bytes\": 13251")), HasSubstr(outside));
  EXPECT_THAT(error_of(changed("\"elements\": 241", "\"elements\": 242")), HasSubstr(outside));
  EXPECT_THAT(error_of(changed("\"elements\": 241", "\"elements\": 9223372036854775807")),
              HasSubstr(outside));
  EXPECT_THAT(error_of(changed("\"ranges\": 800", "\"ranges\": 9223372036854775807")),
              HasSubstr(outside));
  EXPECT_THAT(error_of(changed("\"rows\": 2", "\"rows\": 576460752303423488")), HasSubstr(outside));
  EXPECT_THAT(error_of(changed("\"elements\": 241", "\"elements\": -1")),
              HasSubstr("expected a number from 0"));
}

TEST(Manifest, ProductsAndTheirAlgorithmsAreWords) {
  for (const char* other : {"", "00 ff", "00ff\\n", "\\u0000", "00\\u0009ff", "tést"}) {
    EXPECT_THAT(error_of(changed("\"00ff\"", std::string("\"") + other + "\"")),
                HasSubstr("are a word each"));
    EXPECT_THAT(error_of(changed("\"16384_2048_1\"", std::string("\"") + other + "\"")),
                HasSubstr("are a word each"));
  }
}

TEST(Manifest, ParametersCanBeCounted) {
  EXPECT_THAT(error_of(changed("[37, 13]", "[4611686018427387904, 13]")), HasSubstr("dimension"));
  EXPECT_THAT(error_of(changed("[37, 13]", "[4611686018427387904]")),
              HasSubstr("more elements than any model has"));
  EXPECT_THAT(error_of(changed("[37, 13]", "[37, 0]")), HasSubstr("expected a number from 1"));
  EXPECT_THAT(error_of(changed("[37, 13]", "[]")), HasSubstr("at least one dimension"));
}

TEST(Manifest, OfAHundredThousandRanksIsRead) {
  // In seconds: anything quadratic would take minutes.
  Manifest manifest = sample();
  manifest.metadata.ranks = 100'000;
  manifest.files.clear();
  for (int rank = 0; rank < manifest.metadata.ranks; ++rank) {
    manifest.files.push_back({rank_file_name(rank), {11, 1}, {}});
  }
  manifest.files.push_back({model_file_name, {12, 0}, {}});
  const std::string text = manifest_text(manifest);
  EXPECT_EQ(parse_manifest(text, "manifest.json").files.size(), manifest.files.size());
}

}  // namespace
}  // namespace gsa
