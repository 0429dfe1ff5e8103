#include "trainer/product_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

namespace gsa {
namespace {

namespace fs = std::filesystem;

class ProductFileTest : public testing::Test {
 protected:
  ProductFileTest() { setenv("GSA_PRODUCT_CACHE", folder_.c_str(), 1); }
  ~ProductFileTest() override {
    unsetenv("GSA_PRODUCT_CACHE");
    fs::remove_all(folder_);
  }

  const fs::path folder_ =
      fs::temp_directory_path() / ("gsa_product_file_" + std::to_string(getpid())) / "cache";
  const ProductChoices choices_{{"16384_2048_1", "00ff"}, {"32_8_1", "1234"}};
};

TEST_F(ProductFileTest, GivesBackWhatWasWritten) {
  const auto file = ProductFile::find("NVIDIA H200, cuBLASLt 130100");
  ASSERT_TRUE(file);
  EXPECT_EQ(file->path(), folder_ / "products-NVIDIA_H200__cuBLASLt_130100.txt");
  EXPECT_TRUE(file->read().empty());
  ASSERT_TRUE(file->write(choices_));
  EXPECT_EQ(file->read(), choices_);
  // Nothing but the file is left, and another GPU has one of its own.
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 1);
  EXPECT_TRUE(ProductFile::find("NVIDIA H100, cuBLASLt 130100")->read().empty());
}

TEST_F(ProductFileTest, DamageIsNoticed) {
  const auto file = ProductFile::find("gpu");
  ASSERT_TRUE(file->write(choices_));
  const auto size = fs::file_size(file->path());
  {
    std::fstream damaged(file->path(), std::ios::in | std::ios::out | std::ios::binary);
    damaged.seekp(static_cast<std::streamoff>(size) - 2);
    damaged << '5';
  }
  EXPECT_TRUE(file->read().empty());
  ASSERT_TRUE(file->write(choices_));
  fs::resize_file(file->path(), size / 2);
  EXPECT_TRUE(file->read().empty());
}

TEST_F(ProductFileTest, KeepsNothingWhereItMayNotOrCannot) {
  setenv("GSA_PRODUCT_CACHE", "off", 1);
  EXPECT_FALSE(ProductFile::find("gpu"));
  setenv("GSA_PRODUCT_CACHE", "/proc/nowhere", 1);
  EXPECT_FALSE(ProductFile::find("gpu")->write(choices_));
}

TEST_F(ProductFileTest, LiesInTheUsersCache) {
  unsetenv("GSA_PRODUCT_CACHE");
  setenv("XDG_CACHE_HOME", "/somewhere", 1);
  EXPECT_EQ(ProductFile::find("gpu")->path(), "/somewhere/gsa/products-gpu.txt");
  unsetenv("XDG_CACHE_HOME");
  const std::string home = std::getenv("HOME") == nullptr ? "" : std::getenv("HOME");
  setenv("HOME", "/home/someone", 1);
  EXPECT_EQ(ProductFile::find("gpu")->path(), "/home/someone/.cache/gsa/products-gpu.txt");
  setenv("HOME", home.c_str(), 1);
}

}  // namespace
}  // namespace gsa
