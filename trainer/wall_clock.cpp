#include "trainer/wall_clock.h"

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>

namespace gsa {
namespace {

// A slow shared disk, until this run's own has been measured; bytes a second and rank.
constexpr double guessed_rate = 100e6;
// Leaving: the last lines, closing communication.
constexpr double margin_seconds = 2;

}  // namespace

double process_age() {
  std::ifstream file("/proc/self/stat");
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  // Behind the name, which may hold anything up to the last parenthesis, the start time is the 20th
  // field, in clock ticks since the machine's start (proc(5)).
  constexpr int fields_before = 19;
  std::istringstream fields(text.substr(std::min(text.size(), text.rfind(')') + 1)));
  std::string field;
  for (int i = 0; i < fields_before; ++i) {
    fields >> field;
  }
  double ticks = 0;
  timespec now{};
  if (!(fields >> ticks) || clock_gettime(CLOCK_BOOTTIME, &now) != 0) {
    return 0;
  }
  constexpr double nanosecond = 1e-9;
  const double started = ticks / static_cast<double>(sysconf(_SC_CLK_TCK));
  return std::max(0.0, double(now.tv_sec) + double(now.tv_nsec) * nanosecond - started);
}

WallClock::WallClock(double limit, double checkpoint_bytes)
    : limit_(limit), guessed_checkpoint_(checkpoint_bytes / guessed_rate) {}

void WallClock::step_took(double seconds) {
  longest_step_ = std::max(longest_step_, seconds);
}

void WallClock::checkpoint_took(double seconds) {
  longest_checkpoint_ = std::max(longest_checkpoint_, seconds);
}

double WallClock::reserve() const {
  const double checkpoint = longest_checkpoint_ > 0 ? longest_checkpoint_ : guessed_checkpoint_;
  return longest_step_ + 2 * checkpoint + margin_seconds;
}

}  // namespace gsa
