// Checkpoints that are not what was written.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "tests/trainer/checkpoint/checkpoint_fixture.h"
#include "trainer/checkpoint/checkpoint.h"

namespace gsa {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using testing::checkpoint_error;
using ::testing::HasSubstr;
using testing::TemporaryFolder;
using testing::write_small;

std::string content_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void write_content(const fs::path& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
}

TEST(DamagedCheckpoint, AFlippedByteIsFoundInEveryFile) {
  const TemporaryFolder folder;
  const fs::path checkpoint = write_small(folder.path(), 1);
  for (const char* name : {"rank-0000.h5", "model.h5", "manifest.json"}) {
    const std::string whole = content_of(checkpoint / name);
    constexpr size_t places = 40;
    for (size_t i = 0; i < places; ++i) {
      const size_t position = i * (whole.size() - 1) / (places - 1);  // first and last byte too
      std::string damaged = whole;
      damaged[position] = static_cast<char>(damaged[position] ^ 0x10);
      write_content(checkpoint / name, damaged);
      EXPECT_THAT(checkpoint_error([&] { verify_checkpoint(checkpoint); }),
                  AllOf(HasSubstr(name), HasSubstr("damaged")))
          << "byte " << position;
    }
    write_content(checkpoint / name, whole);
    EXPECT_NO_THROW(verify_checkpoint(checkpoint));
  }
}

TEST(DamagedCheckpoint, ATruncatedFileIsFoundWithoutReadingIt) {
  const TemporaryFolder folder;
  const fs::path checkpoint = write_small(folder.path(), 1);
  const fs::path file = checkpoint / "rank-0000.h5";
  fs::resize_file(file, fs::file_size(file) - 1);
  const std::string error = checkpoint_error([&] { read_metadata(checkpoint); });
  EXPECT_THAT(error, AllOf(HasSubstr("rank-0000.h5: has"), HasSubstr("bytes, was written with"),
                           HasSubstr("use an earlier one")));
}

TEST(DamagedCheckpoint, AMissingFileIsNamed) {
  for (const char* name : {"rank-0000.h5", "model.h5", "manifest.json"}) {
    const TemporaryFolder folder;
    const fs::path checkpoint = write_small(folder.path(), 1);
    fs::remove(checkpoint / name);
    EXPECT_THAT(checkpoint_error([&] { testing::reads_back(checkpoint); }),
                AllOf(HasSubstr(name), HasSubstr("No such file")));
  }
}

TEST(DamagedCheckpoint, AForeignManifestIsRefused) {
  const TemporaryFolder folder;
  const fs::path checkpoint = write_small(folder.path(), 1);
  write_content(checkpoint / "manifest.json", "{\"files\": []}\n");
  EXPECT_THAT(checkpoint_error([&] { read_metadata(checkpoint); }),
              HasSubstr("this is not the manifest of a checkpoint"));
}

TEST(DamagedCheckpoint, ARankFileOfOtherBytesIsAnErrorNotACrash) {
  const TemporaryFolder folder;
  const fs::path checkpoint = write_small(folder.path(), 1);
  // The size stays right: only the reading itself can notice.
  const fs::path file = checkpoint / "rank-0000.h5";
  const size_t size = fs::file_size(file);
  write_content(file, std::string(size, 'x'));
  EXPECT_THAT(checkpoint_error([&] { testing::reads_back(checkpoint); }),
              AllOf(HasSubstr("rank-0000.h5: row 0 of ranges lies outside"), HasSubstr("damaged")));
  write_content(file, std::string(size, '\0'));  // six rows of nothing
  EXPECT_THAT(checkpoint_error([&] { testing::reads_back(checkpoint); }),
              HasSubstr("its files hold 0 of the"));
}

TEST(DamagedCheckpoint, IsReadWhereHdf5WouldNot) {
  // What HDF5 keeps for itself is not looked at: nothing there can harm this program.
  const TemporaryFolder folder;
  const fs::path checkpoint = write_small(folder.path(), 1);
  for (const char* name : {"rank-0000.h5", "model.h5"}) {
    std::string content = content_of(checkpoint / name);
    content.replace(0, 8, 8, 'x');
    write_content(checkpoint / name, content);
  }
  EXPECT_TRUE(testing::reads_back(checkpoint));
  EXPECT_NE(checkpoint_error([&] { verify_checkpoint(checkpoint); }), "");
}

TEST(DamagedCheckpoint, TheOneBeforeIsUsedAndTheDamageIsTold) {
  const TemporaryFolder folder;
  using Reports = std::vector<std::string>;
  Reports reports;
  const auto newest = [&] {
    reports.clear();
    return newest_whole_checkpoint(folder.path(),
                                   [&](const fs::path& damaged, const std::string& what) {
                                     reports.push_back(damaged.filename().string() + ": " + what);
                                   });
  };
  EXPECT_EQ(newest(), std::nullopt);
  const fs::path first = write_small(folder.path(), 10);
  const fs::path second = write_small(folder.path(), 20);
  const fs::path third = write_small(folder.path(), 30);
  fs::create_directory(folder.path() / "step-00000040.partial");
  EXPECT_EQ(newest(), third);
  EXPECT_TRUE(reports.empty());

  fs::remove(third / "model.h5");
  fs::remove_all(second);
  fs::create_directory(second);
  EXPECT_EQ(newest(), first);
  ASSERT_EQ(reports.size(), 2U);
  EXPECT_THAT(reports[0], AllOf(HasSubstr("step-00000030: "), HasSubstr("model.h5")));
  EXPECT_THAT(reports[1], AllOf(HasSubstr("step-00000020: "), HasSubstr("manifest.json")));

  fs::remove(first / "manifest.json");
  EXPECT_EQ(newest(), std::nullopt);
  EXPECT_EQ(reports.size(), 3U);
}

}  // namespace
}  // namespace gsa
