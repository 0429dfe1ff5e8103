#include "trainer/metrics/metrics.h"

#include <fmt/format.h>

#include <cerrno>
#include <fstream>
#include <stdexcept>
#include <system_error>

#include "trainer/metrics/json_line.h"

namespace gsa {
namespace {

[[noreturn]] void fail_system(int code, std::string_view what, const std::filesystem::path& path) {
  throw std::system_error(code, std::generic_category(), fmt::format("{} {}", what, path.string()));
}

double member(const JsonValue& object, const std::string& name) {
  const auto found = object.members.find(name);
  if (found == object.members.end() || found->second.kind != JsonValue::Kind::number) {
    throw std::runtime_error(fmt::format("the number \"{}\" is missing", name));
  }
  return found->second.number;
}

int64_t whole_member(const JsonValue& object, const std::string& name) {
  // Beyond this a double no longer holds every whole number.
  constexpr double kLargestWhole = 9007199254740992.0;
  const double value = member(object, name);
  if (!(value >= 0 && value <= kLargestWhole) ||
      value != static_cast<double>(static_cast<int64_t>(value))) {
    throw std::runtime_error(fmt::format("\"{}\" is no whole number", name));
  }
  return static_cast<int64_t>(value);
}

std::optional<double> optional_member(const JsonValue& object, const std::string& name) {
  if (!object.members.contains(name)) return std::nullopt;
  return member(object, name);
}

const JsonValue* object_member(const JsonValue& object, const std::string& name) {
  const auto found = object.members.find(name);
  return found != object.members.end() && found->second.kind == JsonValue::Kind::object
             ? &found->second
             : nullptr;
}

ValidationMetrics read_validation(const JsonValue& object) {
  ValidationMetrics validation;
  validation.loss = member(object, "loss");
  if (const JsonValue* sources = object_member(object, "sources")) {
    for (const auto& [name, value] : sources->members) {
      validation.sources[name] = member(*sources, name);
    }
  }
  return validation;
}

StepTiming read_timing(const JsonValue& object) {
  StepTiming timing;
  timing.seconds = member(object, "seconds");
  timing.tokens_per_second = member(object, "tokens_per_second");
  timing.data_wait_ms = member(object, "data_wait_ms");
  timing.tflops = optional_member(object, "tflops");
  timing.share_of_peak = optional_member(object, "share_of_peak");
  timing.memory_gib = optional_member(object, "memory_gib");
  timing.host_gib = optional_member(object, "host_gib");
  return timing;
}

void write_validation(const ValidationMetrics& validation, JsonWriter& json) {
  json.begin_object("validation").number("loss", validation.loss).begin_object("sources");
  for (const auto& [source, loss] : validation.sources) json.number(source, loss);
  json.end_object().end_object();
}

void write_timing(const StepTiming& timing, JsonWriter& json) {
  json.begin_object("timing")
      .number("seconds", timing.seconds)
      .number("tokens_per_second", timing.tokens_per_second);
  if (timing.tflops) json.number("tflops", *timing.tflops);
  if (timing.share_of_peak) json.number("share_of_peak", *timing.share_of_peak);
  if (timing.memory_gib) json.number("memory_gib", *timing.memory_gib);
  if (timing.host_gib) json.number("host_gib", *timing.host_gib);
  json.number("data_wait_ms", timing.data_wait_ms).end_object();
}

// A line is kept when a writer wrote it whole, for a step that the run still has behind it.
bool keeps(const std::string& line, int64_t last_step) {
  try {
    return from_json_line(line).step <= last_step;
  } catch (const std::runtime_error&) {
    return false;
  }
}

// Replaces `path` by its lines up to `last_step`, if there are any others.
void drop_lines_after(const std::filesystem::path& path, int64_t last_step) {
  if (!std::filesystem::exists(path)) return;
  std::ifstream in(path, std::ios::binary);
  if (!in) fail_system(errno, "cannot read", path);
  std::string kept;
  bool changed = false;
  for (std::string line; std::getline(in, line);) {
    const bool torn = in.eof();  // a whole line ends with a newline
    if (!torn && keeps(line, last_step)) {
      kept += line + '\n';
    } else {
      changed = true;
    }
  }
  if (in.bad()) fail_system(EIO, "cannot read", path);
  if (!changed) return;

  replace_file(path, kept, /*durable=*/true);
}

}  // namespace

std::string to_json_line(const StepMetrics& metrics) {
  JsonWriter json;
  json.begin_object()
      .integer("step", metrics.step)
      .integer("tokens_seen", metrics.tokens_seen)
      .number("loss", metrics.loss)
      .number("learning_rate", metrics.learning_rate)
      .number("gradient_norm", metrics.gradient_norm);
  if (metrics.skipped) json.integer("skipped", 1);
  if (metrics.validation) write_validation(*metrics.validation, json);
  write_timing(metrics.timing, json);
  return json.end_object().written();
}

StepMetrics from_json_line(const std::string& line) {
  const JsonValue json = parse_json_line(line);
  StepMetrics metrics;
  metrics.step = whole_member(json, "step");
  metrics.tokens_seen = whole_member(json, "tokens_seen");
  metrics.loss = member(json, "loss");
  metrics.learning_rate = member(json, "learning_rate");
  metrics.gradient_norm = member(json, "gradient_norm");
  metrics.skipped = optional_member(json, "skipped").value_or(0) != 0;
  if (const JsonValue* validation = object_member(json, "validation")) {
    metrics.validation = read_validation(*validation);
  }
  const JsonValue* timing = object_member(json, "timing");
  if (timing == nullptr) throw std::runtime_error("the object \"timing\" is missing");
  metrics.timing = read_timing(*timing);
  return metrics;
}

MetricsWriter::MetricsWriter(const std::filesystem::path& path, int64_t last_step)
    : file_((drop_lines_after(path, last_step), path)) {}

void MetricsWriter::write(const StepMetrics& metrics) {
  file_.append(to_json_line(metrics));
}

void MetricsWriter::sync() {
  file_.sync();
}

std::vector<StepMetrics> read_metrics(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) fail_system(errno, "cannot read", path);
  std::vector<StepMetrics> steps;
  int64_t number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    if (in.eof()) break;  // no newline: the line was being written when its writer died
    try {
      steps.push_back(from_json_line(line));
    } catch (const std::runtime_error& error) {
      throw std::runtime_error(fmt::format("{}:{}: not a line of metrics: {}; remove the line",
                                           path.string(), number, error.what()));
    }
  }
  return steps;
}

}  // namespace gsa
