#include "trainer/config/write.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <array>

#include "trainer/config/values.h"

namespace gsa {
namespace {

constexpr size_t kColumns = 4;
using Row = std::array<std::string, kColumns>;

// Text as a YAML scalar: plain where that is the same text, else quoted and escaped.
std::string yaml_scalar(const std::string& text) {
  YAML::Emitter emitter;
  emitter << text;
  return emitter.c_str();
}

template <class T>
std::string yaml_value(const T& value) {
  return value_text(value);
}
std::string yaml_value(const std::string& value) {
  return yaml_scalar(value);
}
std::string yaml_value(const Mixture& value) {
  if (value.empty()) return "{}";
  std::string lines;
  for (const auto& [folder, weight] : value) {
    lines += fmt::format("\n    {}: {}", yaml_scalar(folder), format_real(weight));
  }
  return lines;
}

// A Markdown table's cell: `|` would end it.
std::string cell(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    if (c == '|') escaped += '\\';
    escaped += c;
  }
  return escaped;
}

Row reference_row(const Key& key, Config& defaults) {
  return std::visit(
      [&](const auto& field) -> Row {
        const auto& value = field.in(defaults);
        std::string meaning = key.description;
        std::string rules;
        for (const auto& rule : field.rules) {
          rules += fmt::format("{}{}", rules.empty() ? "" : ", ", rule.text);
        }
        if (!rules.empty()) meaning += fmt::format(" ({})", rules);
        return {key.name, std::string(type_text(value).name), value_text(value), cell(meaning)};
      },
      key.field);
}

std::string table(const std::vector<Row>& rows) {
  std::array<size_t, kColumns> widths{};
  for (const Row& row : rows) {
    for (size_t i = 0; i < kColumns; ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  const auto add = [&](const Row& row) {
    for (size_t i = 0; i + 1 < kColumns; ++i) text += fmt::format("| {:<{}} ", row[i], widths[i]);
    text += fmt::format("| {} |\n", row.back());
  };
  add(rows.front());
  for (size_t i = 0; i + 1 < kColumns; ++i) text += fmt::format("| {:-<{}} ", "", widths[i]);
  text += "| --- |\n";
  std::for_each(rows.begin() + 1, rows.end(), add);
  return text;
}

}  // namespace

std::string value_text(const std::string& value) {
  return fmt::format("\"{}\"", value);
}
std::string value_text(int64_t value) {
  return fmt::format("{}", value);
}
std::string value_text(double value) {
  return format_real(value);
}
std::string value_text(bool value) {
  return value ? "true" : "false";
}
std::string value_text(const Mixture& value) {
  std::vector<std::string> entries;
  for (const auto& [folder, weight] : value) {
    entries.push_back(fmt::format("{}: {}", folder, format_real(weight)));
  }
  return fmt::format("{{{}}}", fmt::join(entries, ", "));
}

std::string to_yaml(const Config& config) {
  Config values = config;  // fields give mutable access; nothing here writes
  std::string text;
  for (const Group& group : config_groups()) {
    text += group.name + ":\n";
    for (const Key& key : group.keys) {
      const std::string value =
          std::visit([&](const auto& field) { return yaml_value(std::as_const(field.in(values))); },
                     key.field);
      text += fmt::format("  {}:{}{}\n", key.name, value.starts_with('\n') ? "" : " ", value);
    }
  }
  return text;
}

std::string config_reference() {
  Config defaults;
  std::string text;
  for (const Group& group : config_groups()) {
    std::vector<Row> rows = {{"key", "type", "default", "meaning"}};
    for (const Key& key : group.keys) rows.push_back(reference_row(key, defaults));
    text += fmt::format("{}### {}: {}\n\n{}", text.empty() ? "" : "\n", group.name,
                        group.description, table(rows));
  }
  return text;
}

}  // namespace gsa
