#include "trainer/config/machine.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <functional>
#include <iterator>
#include <system_error>

#include "trainer/config/error.h"
#include "trainer/config/suggest.h"
#include "trainer/config/values.h"

namespace gsa {
namespace {

enum class Least : uint8_t { zero, above_zero };

// A number of the file, and where it lies in a Machine.
struct Number {
  std::string group;
  std::string key;
  std::string comment;
  Least least = Least::above_zero;
  std::function<double&(Machine&)> in;
};

struct Table {
  std::string group;
  std::string key;
  std::string comment;
  std::function<BandwidthByGpus&(Machine&)> in;
};

const std::vector<Number>& numbers() {
  constexpr Least zero = Least::zero;
  constexpr Least above = Least::above_zero;
  using M = Machine;
  static const std::vector<Number> all = {
      {"memory", "gpu_gib", "of one GPU", above, [](M& m) -> double& { return m.memory.gpu; }},
      {"memory", "overhead_gib", "of a rank beside its plan: context, libraries", zero,
       [](M& m) -> double& { return m.memory.overhead; }},
      {"memory", "communication_gib", "and with other ranks: buffers of collectives", zero,
       [](M& m) -> double& { return m.memory.communication; }},
      {"rates", "products_tflops", "matrix products, and SwiGLU", above,
       [](M& m) -> double& { return m.rates.products; }},
      {"rates", "gsa_tflops", "the token mixer", above,
       [](M& m) -> double& { return m.rates.gsa; }},
      {"rates", "norms_gelements", "10^9 elements a second, forward and backward together", above,
       [](M& m) -> double& { return m.rates.norms; }},
      {"rates", "loss_gelements", "", above, [](M& m) -> double& { return m.rates.loss; }},
      {"rates", "embedding_gelements", "", above,
       [](M& m) -> double& { return m.rates.embedding; }},
      {"rates", "optimizer_gelements", "parameters of a rank's shard", above,
       [](M& m) -> double& { return m.rates.optimizer; }},
      {"rates", "other_ms", "a step's rest", zero,
       [](M& m) -> double& { return m.rates.other_ms; }},
      {"node", "hop_us", "latency of a ring's step inside a node", zero,
       [](M& m) -> double& { return m.node.hop_us; }},
      {"node", "slowdown", "seconds computing loses by a second of communication behind it", zero,
       [](M& m) -> double& { return m.node.slowdown; }},
      {"network", "gpu_gb_s", "a GPU's share of its node's links to others", above,
       [](M& m) -> double& { return m.network.gpu_gb_s; }},
      {"network", "hop_us", "latency of a ring's step to another node", zero,
       [](M& m) -> double& { return m.network.hop_us; }},
      {"network", "slowdown", "the same where NCCL communicates, between nodes", zero,
       [](M& m) -> double& { return m.network.slowdown; }},
      {"storage", "node_gb_s", "that one node writes", above,
       [](M& m) -> double& { return m.storage.node_gb_s; }},
      {"storage", "total_gb_s", "that the file system takes from all nodes", above,
       [](M& m) -> double& { return m.storage.total_gb_s; }}};
  return all;
}

const std::vector<Table>& tables() {
  static const std::vector<Table> all = {
      {"node", "reduce_scatter_gb_s", "bus bandwidth by number of GPUs",
       [](Machine& m) -> BandwidthByGpus& { return m.node.reduce_scatter; }},
      {"node", "all_gather_gb_s", "",
       [](Machine& m) -> BandwidthByGpus& { return m.node.all_gather; }}};
  return all;
}

constexpr const char* name_key = "name";
constexpr const char* gpus_key = "gpus";
constexpr const char* node_group = "node";

[[noreturn]] void fail(const std::string& source, const YAML::Node& node, const std::string& what) {
  throw ConfigError(node.IsDefined() && node.Mark().line >= 0
                        ? fmt::format("{}:{}: {}", source, node.Mark().line + 1, what)
                        : fmt::format("{}: {}", source, what));
}

// The keys of a group, or the groups: what the file must hold, no more and no less.
std::vector<std::string> known_keys(const std::string& group) {
  std::vector<std::string> keys;
  if (group.empty()) {
    keys = {name_key};
    for (const Number& number : numbers()) {
      if (keys.back() != number.group) keys.push_back(number.group);
    }
    return keys;
  }
  if (group == node_group) keys.emplace_back(gpus_key);
  for (const Table& table : tables()) {
    if (table.group == group) keys.push_back(table.key);
  }
  for (const Number& number : numbers()) {
    if (number.group == group) keys.push_back(number.key);
  }
  return keys;
}

void check_keys(const std::string& source, const YAML::Node& map, const std::string& group) {
  const std::string what = group.empty() ? "a machine" : group;
  if (!map.IsMap()) fail(source, map, fmt::format("{} must be a map", what));
  const std::vector<std::string> known = known_keys(group);
  for (const auto& entry : map) {
    const auto key = entry.first.as<std::string>();
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    const std::string meant = nearest(key, known);
    fail(source, entry.first,
         meant.empty() ? fmt::format("unknown key {}; {} has {}", key, what, fmt::join(known, ", "))
                       : fmt::format("unknown key {}; did you mean {}?", key, meant));
  }
  for (const std::string& key : known) {
    if (!map[key]) fail(source, map, fmt::format("{} must have a key {}", what, key));
  }
}

double read_number(const std::string& source, const YAML::Node& node, const std::string& key,
                   Least least) {
  const auto value = node.IsScalar() ? parse_real(node.Scalar()) : std::nullopt;
  if (!value || *value < 0 || (*value == 0 && least == Least::above_zero)) {
    fail(source, node,
         fmt::format("{} must be a number {} 0", key,
                     least == Least::zero ? "of at least" : "above"));
  }
  return *value;
}

int read_gpus(const std::string& source, const YAML::Node& node, const std::string& key) {
  constexpr int64_t most = 1 << 20;
  const auto value = node.IsScalar() ? parse_count(node.Scalar()) : std::nullopt;
  if (!value || *value < 1 || *value > most) {
    fail(source, node, fmt::format("{} must be a number of GPUs", key));
  }
  return static_cast<int>(*value);
}

BandwidthByGpus read_table(const std::string& source, const YAML::Node& node,
                           const std::string& key) {
  if (!node.IsMap() || node.size() == 0) {
    fail(source, node, fmt::format("{} must be a map such as {{2: 300, 8: 350}}", key));
  }
  BandwidthByGpus table;
  for (const auto& entry : node) {
    table[read_gpus(source, entry.first, key)] =
        read_number(source, entry.second, key, Least::above_zero);
  }
  return table;
}

std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (!file) {
    throw ConfigError(
        fmt::format("{}: cannot read this file: {}", path, std::generic_category().message(errno)));
  }
  return text;
}

YAML::Node load_yaml(const std::string& text, const std::string& source) {
  try {
    return YAML::Load(text);
  } catch (const YAML::Exception& error) {
    throw ConfigError(
        fmt::format("{}:{}: not valid YAML: {}", source, error.mark.line + 1, error.msg));
  }
}

}  // namespace

Machine parse_machine(const std::string& text, const std::string& source) {
  const YAML::Node root = load_yaml(text, source);
  check_keys(source, root, "");
  for (const std::string& group : known_keys("")) {
    if (group != name_key) check_keys(source, root[group], group);
  }
  Machine machine;
  machine.name = root[name_key].as<std::string>();
  machine.node.gpus = read_gpus(source, root[node_group][gpus_key], "node.gpus");
  for (const Number& number : numbers()) {
    number.in(machine) = read_number(source, root[number.group][number.key],
                                     number.group + "." + number.key, number.least);
  }
  for (const Table& table : tables()) {
    table.in(machine) =
        read_table(source, root[table.group][table.key], table.group + "." + table.key);
  }
  return machine;
}

Machine load_machine(const std::string& path) {
  return parse_machine(read_text(path), path);
}

std::string to_yaml(const Machine& machine, const std::vector<std::string>& comments) {
  Machine copy = machine;  // the tables hand out references
  std::string text;
  for (const std::string& comment : comments) text += "# " + comment + "\n";
  text += fmt::format("name: {}\n", machine.name);
  const auto line = [&text](const std::string& key, const std::string& value,
                            const std::string& comment) {
    const std::string entry = fmt::format("  {}: {}", key, value);
    text += comment.empty() ? entry + "\n" : fmt::format("{:<40} # {}\n", entry, comment);
  };
  for (const std::string& group : known_keys("")) {
    if (group == name_key) continue;
    text += fmt::format("{}:\n", group);
    if (group == node_group) line(gpus_key, std::to_string(machine.node.gpus), "that share NVLink");
    for (const Table& table : tables()) {
      if (table.group != group) continue;
      std::vector<std::string> entries;
      for (const auto& [gpus, rate] : table.in(copy)) {
        entries.push_back(fmt::format("{}: {:.5g}", gpus, rate));
      }
      line(table.key, fmt::format("{{{}}}", fmt::join(entries, ", ")), table.comment);
    }
    for (const Number& number : numbers()) {
      if (number.group == group) {
        line(number.key, fmt::format("{:.5g}", number.in(copy)), number.comment);
      }
    }
  }
  return text;
}

double BenchFigures::at(const std::string& name) const {
  const auto found = values.find(name);
  if (found == values.end()) {
    throw ConfigError(
        fmt::format("{}: no figure {}; give results of gsa bench step and gsa bench comm (--json)",
                    source, name));
  }
  return found->second;
}

BenchFigures load_bench(const std::string& path) {
  // JSON of this form is YAML too.
  const YAML::Node root = load_yaml(read_text(path), path);
  if (!root.IsMap() || !root["device"]) {
    throw ConfigError(fmt::format("{}: not a result of gsa bench (--json)", path));
  }
  BenchFigures figures;
  figures.source = path;
  for (const auto& entry : root) {
    const auto name = entry.first.as<std::string>();
    if (entry.second.IsMap()) {
      if (name != "phases_ms") continue;
      for (const auto& phase : entry.second) {
        figures.phases_ms[phase.first.as<std::string>()] = phase.second.as<double>();
      }
    } else if (const auto value = parse_real(entry.second.Scalar())) {
      figures.values[name] = *value;
    } else {
      figures.texts[name] = entry.second.Scalar();
    }
  }
  return figures;
}

}  // namespace gsa
