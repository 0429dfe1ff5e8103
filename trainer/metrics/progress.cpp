#include "trainer/metrics/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <filesystem>

namespace gsa {
namespace {

constexpr double kMinute = 60;
constexpr double kHour = 60 * kMinute;
constexpr double kDay = 24 * kHour;
constexpr double kPercent = 100;

constexpr int kBarWidth = 24;
constexpr std::string_view kEraseLine = "\r\x1b[K";

// Weight of the newest step in the smoothed time of a step: the last twenty or so count.
constexpr double kNewestWeight = 0.1;

// Three significant digits without an exponent.
std::string three_digits(double value) {
  const double size = std::abs(value);
  if (size >= 99.95) return fmt::format("{:.0f}", value);
  if (size >= 9.995) return fmt::format("{:.1f}", value);
  return fmt::format("{:.2f}", value);
}

// "4d 03h": `seconds` in whole `large` and `small` units.
std::string two_units(double seconds, double large, char large_name, double small,
                      char small_name) {
  const auto total = static_cast<int64_t>(std::floor(seconds / small));
  const auto ratio = static_cast<int64_t>(large / small);
  return fmt::format("{}{} {:02}{}", total / ratio, large_name, total % ratio, small_name);
}

}  // namespace

std::string human_count(double value) {
  if (!std::isfinite(value)) return "?";
  constexpr double kStep = 1000;
  constexpr double kRoundsUp = 999.5;  // shown as 1000 with three digits
  constexpr std::array<std::string_view, 5> kSuffixes = {"", "K", "M", "B", "T"};
  size_t suffix = 0;
  while (std::abs(value) >= kRoundsUp && suffix + 1 < kSuffixes.size()) {
    value /= kStep;
    ++suffix;
  }
  if (suffix == 0 && value == std::floor(value)) return fmt::format("{:.0f}", value);
  if (suffix == 0 && std::abs(value) < 1) return fmt::format("{:.3g}", value);
  return three_digits(value) + std::string(kSuffixes[suffix]);
}

std::string human_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "?";
  if (seconds < 1) return fmt::format("{:.2f}s", seconds);
  constexpr double kRoundsUp = kMinute - 0.05;  // shown as 60.0s with one decimal
  if (seconds < kRoundsUp) return fmt::format("{:.1f}s", seconds);
  seconds = std::round(seconds);
  if (seconds < kHour) return two_units(seconds, kMinute, 'm', 1, 's');
  if (seconds < kDay) return two_units(seconds, kHour, 'h', kMinute, 'm');
  return two_units(seconds, kDay, 'd', kHour, 'h');
}

bool stdout_is_terminal() {
  if (isatty(STDOUT_FILENO) != 1) return false;
  if (std::getenv("OMPI_COMM_WORLD_SIZE") == nullptr) return true;
  std::error_code failed;
  const auto target =
      std::filesystem::read_symlink(fmt::format("/proc/{}/fd/1", getppid()), failed);
  return !failed &&
         (target.string().starts_with("/dev/pts/") || target.string().starts_with("/dev/tty"));
}

std::string step_line(const StepMetrics& metrics, int64_t total_steps, double seconds_left) {
  const StepTiming& timing = metrics.timing;
  std::string line =
      fmt::format("step {}/{}  loss {:.4f}  lr {:.2e}  |g| {}  {} tok/s", metrics.step, total_steps,
                  metrics.loss, metrics.learning_rate, human_count(metrics.gradient_norm),
                  human_count(timing.tokens_per_second));
  if (timing.tflops) line += fmt::format("  {} TFLOP/s", human_count(*timing.tflops));
  if (timing.share_of_peak) line += fmt::format(" ({:.0f}%)", *timing.share_of_peak * kPercent);
  if (timing.memory_gib) line += fmt::format("  {:.1f} GiB", *timing.memory_gib);
  if (metrics.validation) line += fmt::format("  validation loss {:.4f}", metrics.validation->loss);
  return line + fmt::format("  left {}", human_duration(seconds_left));
}

ProgressReporter::ProgressReporter(std::ostream& out, bool live, int64_t total_steps, int64_t every)
    : out_(out), live_(live), total_steps_(total_steps), every_(std::max<int64_t>(every, 1)) {}

ProgressReporter::~ProgressReporter() {
  finish();
}

void ProgressReporter::step(const StepMetrics& metrics) {
  // A plain mean at first, so that a slow first step does not weigh for long.
  ++reported_;
  const double weight = std::max(kNewestWeight, 1.0 / static_cast<double>(reported_));
  seconds_per_step_ += weight * (metrics.timing.seconds - seconds_per_step_);
  const auto steps_left = static_cast<double>(total_steps_ - metrics.step);
  const double seconds_left = seconds_per_step_ * std::max(steps_left, 0.0);

  finish();
  const bool due = metrics.step % every_ == 0 || reported_ == 1 || metrics.step == total_steps_;
  if (due || metrics.validation) out_ << step_line(metrics, total_steps_, seconds_left) << '\n';
  if (live_ && metrics.step < total_steps_) draw(metrics, seconds_left);
  out_ << std::flush;
}

void ProgressReporter::finish() {
  if (!drawn_) return;
  out_ << kEraseLine << std::flush;
  drawn_ = false;
}

void ProgressReporter::draw(const StepMetrics& metrics, double seconds_left) {
  const double share = std::clamp(
      static_cast<double>(metrics.step) / static_cast<double>(std::max<int64_t>(total_steps_, 1)),
      0.0, 1.0);
  const int filled = static_cast<int>(share * kBarWidth);
  out_ << fmt::format("[{:=<{}}{: <{}}] {:5.1f}%  step {}  loss {:.3f}  {} tok/s  left {}", "",
                      filled, "", kBarWidth - filled, share * kPercent, metrics.step, metrics.loss,
                      human_count(metrics.timing.tokens_per_second), human_duration(seconds_left));
  drawn_ = true;
}

}  // namespace gsa
