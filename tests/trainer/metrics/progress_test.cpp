#include "trainer/metrics/progress.h"

#include <gtest/gtest.h>

#include <limits>
#include <sstream>

namespace gsa {
namespace {

StepMetrics step_metrics(int64_t step) {
  StepMetrics metrics;
  metrics.step = step;
  metrics.tokens_seen = step * 4096;
  metrics.loss = 6.91234;
  metrics.learning_rate = 3e-4;
  metrics.gradient_norm = 1.7;
  metrics.timing.seconds = 2;
  metrics.timing.tokens_per_second = 2048;
  return metrics;
}

TEST(Progress, CountsHaveThreeDigitsAndASuffix) {
  EXPECT_EQ(human_count(0), "0");
  EXPECT_EQ(human_count(999), "999");
  EXPECT_EQ(human_count(1.7), "1.70");
  EXPECT_EQ(human_count(0.0123), "0.0123");
  EXPECT_EQ(human_count(99.96), "100");
  EXPECT_EQ(human_count(2048), "2.05K");
  EXPECT_EQ(human_count(524288), "524K");
  EXPECT_EQ(human_count(999'600), "1.00M");
  EXPECT_EQ(human_count(1'376'929'792), "1.38B");
  EXPECT_EQ(human_count(627e9), "627B");
  EXPECT_EQ(human_count(5e15), "5000T");
  EXPECT_EQ(human_count(std::numeric_limits<double>::quiet_NaN()), "?");
}

TEST(Progress, DurationsHaveTwoUnits) {
  EXPECT_EQ(human_duration(0.25), "0.25s");
  EXPECT_EQ(human_duration(8.21), "8.2s");
  EXPECT_EQ(human_duration(59.99), "1m 00s");
  EXPECT_EQ(human_duration(185), "3m 05s");
  EXPECT_EQ(human_duration(2 * 3600 + 7 * 60 + 59), "2h 07m");
  EXPECT_EQ(human_duration(4 * 86400 + 3 * 3600), "4d 03h");
  EXPECT_EQ(human_duration(-1), "?");
  EXPECT_EQ(human_duration(std::numeric_limits<double>::infinity()), "?");
}

TEST(Progress, TheStepLineLeavesOutWhatIsNotKnown) {
  StepMetrics metrics = step_metrics(12);
  EXPECT_EQ(step_line(metrics, 244, 185),
            "step 12/244  loss 6.9123  lr 3.00e-04  |g| 1.70  2.05K tok/s  left 3m 05s");
  metrics.timing.tflops = 412.3;
  metrics.timing.share_of_peak = 0.417;
  metrics.timing.memory_gib = 42.04;
  metrics.validation = ValidationMetrics{6.5, {}};
  EXPECT_EQ(step_line(metrics, 244, 185),
            "step 12/244  loss 6.9123  lr 3.00e-04  |g| 1.70  2.05K tok/s  412 TFLOP/s (42%)  42.0 "
            "GiB  validation loss 6.5000  left 3m 05s");
}

TEST(Progress, LinesComeAtTheirIntervalAndWithAValidation) {
  std::ostringstream out;
  ProgressReporter reporter(out, false, 10, 4);
  for (int64_t step = 1; step <= 10; ++step) {
    StepMetrics metrics = step_metrics(step);
    if (step == 6) metrics.validation = ValidationMetrics{6.5, {}};
    reporter.step(metrics);
  }
  std::istringstream lines(out.str());
  std::vector<std::string> starts;
  for (std::string line; std::getline(lines, line);)
    starts.push_back(line.substr(0, line.find(' ', 5)));
  EXPECT_EQ(starts, (std::vector<std::string>{"step 1/10", "step 4/10", "step 6/10", "step 8/10",
                                              "step 10/10"}));
  EXPECT_EQ(out.str().find('\r'), std::string::npos);
  EXPECT_NE(out.str().find("left 12.0s"), std::string::npos);  // step 4: 6 steps of 2 s
}

TEST(Progress, TheLiveLineIsErasedBeforeTheNext) {
  std::ostringstream out;
  {
    ProgressReporter reporter(out, true, 4, 100);
    reporter.step(step_metrics(1));
    reporter.step(step_metrics(2));
  }
  const std::string text = out.str();
  EXPECT_TRUE(text.starts_with("step 1/4 ")) << text;
  EXPECT_NE(
      text.find("\n[======                  ]  25.0%  step 1  loss 6.912  2.05K tok/s  left 6.0s"
                "\r\x1b[K[============            ]  50.0%  step 2"),
      std::string::npos)
      << text;
  EXPECT_TRUE(text.ends_with("left 4.0s\r\x1b[K")) << text;
}

}  // namespace
}  // namespace gsa
