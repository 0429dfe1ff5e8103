#include "trainer/metrics/log.h"

#include <fmt/format.h>
#include <spdlog/sinks/ansicolor_sink.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <memory>
#include <stdexcept>

namespace gsa {
namespace {

spdlog::level::level_enum parse_level(std::string_view level) {
  if (level == "debug") return spdlog::level::debug;
  if (level == "info") return spdlog::level::info;
  if (level == "warning") return spdlog::level::warn;
  if (level == "error") return spdlog::level::err;
  throw std::invalid_argument(
      fmt::format("the log level must be debug, info, warning or error (got \"{}\")", level));
}

// On a terminal a line starts by erasing the live progress line that may stand there.
std::string pattern(int rank, int ranks) {
  const std::string erase = isatty(STDERR_FILENO) == 1 ? "\r\x1b[K" : "";
  const std::string who = ranks > 1 ? fmt::format("rank {} ", rank) : "";
  return erase + "%H:%M:%S " + who + "%^%l%$ %v";
}

// The process's one logger: logging is the single piece of global state in this project.
spdlog::logger& logger() {
  static const std::shared_ptr<spdlog::logger> instance = [] {
    auto made = std::make_shared<spdlog::logger>(
        "gsa", std::make_shared<spdlog::sinks::ansicolor_stderr_sink_mt>());
    made->set_pattern(pattern(0, 1));
    made->flush_on(spdlog::level::debug);
    return made;
  }();
  return *instance;
}

}  // namespace

void setup_logging(std::string_view level, int rank, int ranks) {
  spdlog::level::level_enum shown = parse_level(level);
  if (rank != 0 && shown != spdlog::level::debug) shown = spdlog::level::err;
  logger().set_level(shown);
  logger().set_pattern(pattern(rank, ranks));
}

void log_debug(std::string_view message) {
  logger().debug("{}", message);
}
void log_info(std::string_view message) {
  logger().info("{}", message);
}
void log_warning(std::string_view message) {
  logger().warn("{}", message);
}
void log_error(std::string_view message) {
  logger().error("{}", message);
}

}  // namespace gsa
