#include "trainer/metrics/events.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <climits>
#include <fstream>
#include <iterator>
#include <stdexcept>

#include "trainer/metrics/json_line.h"

namespace gsa {
namespace {

// Between two heartbeats in one state.
constexpr double kBeatSeconds = 5;

double number_of(const JsonValue& object, const std::string& name, bool required) {
  const auto found = object.members.find(name);
  if (found == object.members.end() && !required) return 0;
  if (found == object.members.end() || found->second.kind != JsonValue::Kind::number) {
    throw std::runtime_error(fmt::format("the number \"{}\" is missing", name));
  }
  return found->second.number;
}

int64_t whole_of(const JsonValue& object, const std::string& name, bool required) {
  // Beyond this a double no longer holds every whole number.
  constexpr double kLargestWhole = 9007199254740992.0;
  const double value = number_of(object, name, required);
  if (!(value >= 0 && value <= kLargestWhole)) {
    throw std::runtime_error(fmt::format("\"{}\" is no whole number", name));
  }
  return static_cast<int64_t>(value);
}

std::string text_of(const JsonValue& object, const std::string& name, bool required) {
  const auto found = object.members.find(name);
  if (found == object.members.end() && !required) return "";
  if (found == object.members.end() || found->second.kind != JsonValue::Kind::text) {
    throw std::runtime_error(fmt::format("the text \"{}\" is missing", name));
  }
  return found->second.text;
}

}  // namespace

double unix_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string host_name() {
  std::array<char, HOST_NAME_MAX + 1> name{};
  gethostname(name.data(), name.size() - 1);
  return name.data();
}

std::string to_json_line(const RunEvent& event) {
  JsonWriter json;
  json.begin_object()
      .number("time", event.time)
      .text("event", event.kind)
      .integer("step", event.step);
  if (!event.reason.empty()) json.text("reason", event.reason);
  if (event.seconds > 0) json.number("seconds", event.seconds);
  if (event.stalled > 0) json.number("stalled", event.stalled);
  if (event.bytes > 0) json.integer("bytes", event.bytes);
  if (event.ranks > 0) json.integer("ranks", event.ranks);
  if (!event.host.empty()) json.text("host", event.host).integer("pid", event.pid);
  return json.end_object().written();
}

RunEvent event_from_json_line(const std::string& line) {
  const JsonValue json = parse_json_line(line);
  RunEvent event;
  event.time = number_of(json, "time", true);
  event.kind = text_of(json, "event", true);
  event.step = whole_of(json, "step", true);
  event.reason = text_of(json, "reason", false);
  event.seconds = number_of(json, "seconds", false);
  event.stalled = number_of(json, "stalled", false);
  event.bytes = whole_of(json, "bytes", false);
  event.ranks = whole_of(json, "ranks", false);
  event.host = text_of(json, "host", false);
  event.pid = whole_of(json, "pid", false);
  return event;
}

void EventLog::write(RunEvent event) {
  event.time = unix_time();
  file_.append(to_json_line(event));
}

std::vector<RunEvent> read_events(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::vector<RunEvent> events;
  for (std::string line; std::getline(in, line);) {
    try {
      events.push_back(event_from_json_line(line));
    } catch (const std::runtime_error&) {
      // Torn by a crash: the history goes on after it.
    }
  }
  return events;
}

void Heartbeat::beat(const std::string& state, int64_t step) noexcept {
  try {
    const double now = unix_time();
    if (state == last_state_ && now - last_time_ < kBeatSeconds) return;
    last_state_ = state;
    last_time_ = now;
    JsonWriter json;
    json.begin_object()
        .number("time", now)
        .integer("step", step)
        .text("state", state)
        .text("host", host_name())
        .integer("pid", getpid())
        .end_object();
    replace_file(path_, json.written() + '\n', /*durable=*/false);
  } catch (const std::exception&) {
    // The next beat tries again; an old one tells that something is wrong.
  }
}

HeartbeatState read_heartbeat(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::string line;
  if (!in || !std::getline(in, line)) {
    throw std::runtime_error(fmt::format("{}: cannot be read", path.string()));
  }
  const JsonValue json = parse_json_line(line);
  return {.time = number_of(json, "time", true),
          .step = whole_of(json, "step", true),
          .state = text_of(json, "state", true),
          .host = text_of(json, "host", true),
          .pid = whole_of(json, "pid", true)};
}

}  // namespace gsa
