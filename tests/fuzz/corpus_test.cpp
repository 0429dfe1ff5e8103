// The fuzz targets on their corpus, and on seeded changes of it: every finding that was ever kept
// stays fixed, in every build.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "tests/fuzz/targets.h"
#include "tests/support/host_tensor.h"

namespace gsa::fuzz {
namespace {

namespace fs = std::filesystem;
using test::Random;

constexpr int changes_a_file = 300;

std::vector<fs::path> corpus_of(const Target& target) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(fs::path(GSA_FUZZ_CORPUS) / target.name)) {
    files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::vector<uint8_t> content_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// Some bytes flipped, overwritten with extremes, left out or doubled.
std::vector<uint8_t> changed(std::vector<uint8_t> bytes, Random& random) {
  const int changes = 1 + random.integer(4);
  for (int i = 0; i < changes && !bytes.empty(); ++i) {
    const auto at = bytes.begin() + random.integer(static_cast<int32_t>(bytes.size()));
    const auto end = at + std::min<std::ptrdiff_t>(bytes.end() - at, 1 + random.integer(8));
    switch (random.integer(5)) {
      case 0:
        *at = static_cast<uint8_t>(*at ^ (1U << static_cast<unsigned>(random.integer(8))));
        break;
      case 1:
        std::fill(at, end, uint8_t{0xff});
        break;
      case 2:
        std::fill(at, end, uint8_t{0});
        break;
      case 3:
        bytes.erase(at, end);
        break;
      default: {
        const std::vector<uint8_t> part(at, end);
        bytes.insert(at, part.begin(), part.end());
      }
    }
  }
  return bytes;
}

class Corpus : public testing::TestWithParam<Target> {};

INSTANTIATE_TEST_SUITE_P(Targets, Corpus, testing::ValuesIn(targets()),
                         [](const auto& suite) { return std::string(suite.param.name); });

TEST_P(Corpus, IsReadOrRefused) {
  const std::vector<fs::path> files = corpus_of(GetParam());
  EXPECT_FALSE(files.empty());
  for (const fs::path& file : files) {
    SCOPED_TRACE(file.filename().string());
    GetParam().run(content_of(file));
  }
  GetParam().run({});
}

TEST_P(Corpus, ChangedAnywhereIsReadOrRefused) {
  Random random(2026);
  for (const fs::path& file : corpus_of(GetParam())) {
    const std::vector<uint8_t> bytes = content_of(file);
    for (int i = 0; i < changes_a_file; ++i) {
      GetParam().run(changed(bytes, random));
    }
  }
}

}  // namespace
}  // namespace gsa::fuzz
