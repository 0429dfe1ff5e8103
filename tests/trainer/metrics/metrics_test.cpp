#include "trainer/metrics/metrics.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <system_error>

namespace gsa {
namespace {

namespace fs = std::filesystem;

StepMetrics step_metrics(int64_t step) {
  StepMetrics metrics;
  metrics.step = step;
  metrics.tokens_seen = step * 524'288;
  metrics.loss = 10.0 / (3.0 + static_cast<double>(step));
  metrics.learning_rate = 3e-4 / 7;
  metrics.gradient_norm = 0.1 + 0.2;
  metrics.timing.seconds = 0.8;
  metrics.timing.tokens_per_second = 5120;
  metrics.timing.data_wait_ms = 0.02;
  return metrics;
}

std::vector<StepMetrics> steps(int64_t first, int64_t last) {
  std::vector<StepMetrics> all;
  for (int64_t step = first; step <= last; ++step) all.push_back(step_metrics(step));
  return all;
}

TEST(MetricsLine, StartsWithWhatIsDeterministic) {
  StepMetrics metrics = step_metrics(12);
  metrics.loss = 6.5;
  metrics.learning_rate = 3e-4;
  metrics.gradient_norm = 1.75;
  EXPECT_EQ(to_json_line(metrics),
            R"({"step":12,"tokens_seen":6291456,"loss":6.5,"learning_rate":0.0003,)"
            R"("gradient_norm":1.75,)"
            R"("timing":{"seconds":0.8,"tokens_per_second":5120,"data_wait_ms":0.02}})");
  metrics.validation = ValidationMetrics{6.25, {{"RedPajamaC4", 6}, {"a \"b\"\n", 7.5}}};
  metrics.timing.tflops = 400;
  metrics.timing.share_of_peak = 0.5;
  metrics.timing.memory_gib = 40.5;
  metrics.timing.host_gib = 3.5;
  EXPECT_EQ(to_json_line(metrics),
            R"({"step":12,"tokens_seen":6291456,"loss":6.5,"learning_rate":0.0003,)"
            R"("gradient_norm":1.75,)"
            R"("validation":{"loss":6.25,"sources":{"RedPajamaC4":6,"a \"b\"\u000a":7.5}},)"
            R"("timing":{"seconds":0.8,"tokens_per_second":5120,"tflops":400,"share_of_peak":0.5,)"
            R"("memory_gib":40.5,"host_gib":3.5,"data_wait_ms":0.02}})");
}

TEST(MetricsLine, ReadsBackToTheSameBits) {
  StepMetrics metrics = step_metrics(190'735);
  EXPECT_EQ(from_json_line(to_json_line(metrics)), metrics);
  metrics.validation = ValidationMetrics{1.0 / 3, {{"a", 2.0 / 3}, {"quote \" \\ \t", 1e-300}}};
  metrics.timing.tflops = 1.0 / 7;
  metrics.timing.share_of_peak = 1.0 / 9;
  metrics.timing.memory_gib = 1.0 / 11;
  metrics.timing.host_gib = 1.0 / 13;
  EXPECT_EQ(from_json_line(to_json_line(metrics)), metrics);
}

TEST(MetricsLine, SaysWhereAStepWasSkipped) {
  StepMetrics metrics = step_metrics(12);
  EXPECT_EQ(to_json_line(metrics).find("skipped"), std::string::npos);
  metrics.skipped = true;
  EXPECT_NE(to_json_line(metrics).find("\"skipped\":1,\"timing\""), std::string::npos);
  EXPECT_EQ(from_json_line(to_json_line(metrics)), metrics);
}

TEST(MetricsLine, NumbersThatAreNotFiniteAreNull) {
  StepMetrics metrics = step_metrics(1);
  metrics.loss = std::numeric_limits<double>::quiet_NaN();
  metrics.gradient_norm = std::numeric_limits<double>::infinity();
  const std::string line = to_json_line(metrics);
  EXPECT_NE(line.find("\"loss\":null"), std::string::npos) << line;
  EXPECT_TRUE(std::isnan(from_json_line(line).loss));
  EXPECT_TRUE(std::isnan(from_json_line(line).gradient_norm));
}

TEST(MetricsLine, BrokenLinesAreRefused) {
  const std::string whole = to_json_line(step_metrics(1));
  for (size_t length = 0; length < whole.size(); ++length) {
    EXPECT_THROW(from_json_line(whole.substr(0, length)), std::runtime_error) << length;
  }
  for (const char* line :
       {"{}", "[]", "null", "{\"step\":1.5}", "{\"step\":\"1\"}", "{\"step\":1e300}",
        "{\"step\":inf}", "{\"a\\x\":1}", "{\"a\\u00\":1}", "{\"a\\u0fff\":1}", "{\"step\":1}x"}) {
    EXPECT_THROW(from_json_line(line), std::runtime_error) << line;
  }
  std::string deep;
  for (int i = 0; i < 100'000; ++i) deep += "{\"a\":";
  EXPECT_THROW(from_json_line(deep), std::runtime_error);
}

class MetricsFile : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "gsa-metrics-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    path_ = folder_ / "metrics.jsonl";
  }
  void TearDown() override { fs::remove_all(folder_); }

  void append(const std::string& text) const {
    std::ofstream(path_, std::ios::binary | std::ios::app) << text;
  }
  void write_steps(int64_t first, int64_t last, int64_t resumed_at) const {
    MetricsWriter writer(path_, resumed_at);
    for (const StepMetrics& metrics : steps(first, last)) writer.write(metrics);
    writer.sync();
  }
  std::string text() const {
    std::ifstream in(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  }

  fs::path folder_;
  fs::path path_;
};

TEST_F(MetricsFile, HoldsEveryStepInOrder) {
  write_steps(1, 5, 0);
  EXPECT_EQ(read_metrics(path_), steps(1, 5));
}

TEST_F(MetricsFile, ALineIsThereAsSoonAsItIsWritten) {
  MetricsWriter writer(path_);
  writer.write(step_metrics(1));
  EXPECT_EQ(read_metrics(path_), steps(1, 1));
}

TEST_F(MetricsFile, AResumeDropsLaterStepsAndATornLine) {
  write_steps(1, 8, 0);
  const std::string line = to_json_line(step_metrics(9));
  append(line.substr(0, line.size() / 2));
  write_steps(6, 10, 5);
  EXPECT_EQ(read_metrics(path_), steps(1, 10));
  EXPECT_FALSE(fs::exists(path_.string() + ".tmp"));
}

TEST_F(MetricsFile, AWholeLastLineWithoutItsNewlineIsTornToo) {
  write_steps(1, 2, 0);
  append(to_json_line(step_metrics(3)));
  EXPECT_EQ(read_metrics(path_), steps(1, 2));
  write_steps(3, 3, 3);
  EXPECT_EQ(read_metrics(path_), steps(1, 3));
}

TEST_F(MetricsFile, AResumeWithNothingToDropLeavesTheFileAlone) {
  write_steps(1, 3, 0);
  const std::string before = text();
  write_steps(4, 3, 3);
  EXPECT_EQ(text(), before);
}

TEST_F(MetricsFile, ANewRunStartsAnEmptyFile) {
  write_steps(1, 3, 0);
  write_steps(1, 2, 0);
  EXPECT_EQ(read_metrics(path_), steps(1, 2));
}

TEST_F(MetricsFile, ADamagedLineIsNamedByNumber) {
  write_steps(1, 1, 0);
  append("garbage\n");
  append(to_json_line(step_metrics(2)) + "\n");
  try {
    read_metrics(path_);
    FAIL();
  } catch (const std::runtime_error& error) {
    EXPECT_EQ(
        error.what(),
        path_.string() + ":2: not a line of metrics: column 1: expected '{'; remove the line");
  }
}

TEST_F(MetricsFile, WhatCannotBeWrittenIsNamed) {
  const fs::path path = folder_ / "missing" / "metrics.jsonl";
  try {
    MetricsWriter writer(path);
    FAIL();
  } catch (const std::system_error& error) {
    EXPECT_NE(std::string(error.what()).find("cannot open " + path.string()), std::string::npos);
  }
  EXPECT_THROW(read_metrics(path), std::system_error);
}

// A limit on the size of files stands in for a full disk: the line that does not fit is taken back,
// and follows when there is room again.
TEST_F(MetricsFile, ALineThatDoesNotFitIsTakenBackAndKept) {
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit unlimited{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &unlimited), 0);
  rlimit limited = unlimited;
  limited.rlim_cur = to_json_line(step_metrics(1)).size() * 5 / 2;

  MetricsWriter writer(path_);
  writer.write(step_metrics(1));
  writer.write(step_metrics(2));
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limited), 0);
  EXPECT_THROW(writer.write(step_metrics(3)), std::system_error);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &unlimited), 0);
  EXPECT_EQ(read_metrics(path_), steps(1, 2));
  writer.write(step_metrics(4));
  EXPECT_EQ(read_metrics(path_), steps(1, 4));
}

}  // namespace
}  // namespace gsa
