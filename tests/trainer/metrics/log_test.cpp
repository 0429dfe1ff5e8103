#include "trainer/metrics/log.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>
#include <stdexcept>
#include <string>

namespace gsa {
namespace {

// What every level of message writes to stderr under one setup, times replaced by T.
std::string messages(std::string_view level, int rank, int ranks) {
  testing::internal::CaptureStderr();
  setup_logging(level, rank, ranks);
  log_debug("a");
  log_info("b {}");
  log_warning("c");
  log_error("d");
  constexpr size_t kTimeLength = 8;  // hh:mm:ss
  std::istringstream lines(testing::internal::GetCapturedStderr());
  std::string text;
  for (std::string line; std::getline(lines, line);) {
    text += 'T' + line.substr(std::min(kTimeLength, line.size())) + '\n';
  }
  return text;
}

TEST(Log, ShowsTheLevelAndWorse) {
  EXPECT_EQ(messages("debug", 0, 1), "T debug a\nT info b {}\nT warning c\nT error d\n");
  EXPECT_EQ(messages("info", 0, 1), "T info b {}\nT warning c\nT error d\n");
  EXPECT_EQ(messages("warning", 0, 1), "T warning c\nT error d\n");
  EXPECT_EQ(messages("error", 0, 1), "T error d\n");
}

TEST(Log, OtherRanksShowErrorsAndSayWhoTheyAre) {
  EXPECT_EQ(messages("info", 0, 2), "T rank 0 info b {}\nT rank 0 warning c\nT rank 0 error d\n");
  EXPECT_EQ(messages("info", 1, 2), "T rank 1 error d\n");
  EXPECT_EQ(messages("debug", 1, 2),
            "T rank 1 debug a\nT rank 1 info b {}\nT rank 1 warning c\nT rank 1 error d\n");
}

TEST(Log, AnUnknownLevelIsRefused) {
  EXPECT_THROW(setup_logging("loud", 0, 1), std::invalid_argument);
}

}  // namespace
}  // namespace gsa
