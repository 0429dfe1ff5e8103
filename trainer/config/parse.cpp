// YAML text and command-line overrides to a Config.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>
#include <system_error>

#include "trainer/config/check.h"
#include "trainer/config/config.h"
#include "trainer/config/error.h"
#include "trainer/config/schema.h"
#include "trainer/config/suggest.h"
#include "trainer/config/values.h"

namespace gsa {
namespace {

[[noreturn]] void fail(const std::string& place, const std::string& message) {
  throw ConfigError(fmt::format("{}: {}", place, message));
}

const Group* find_group(const std::string& name) {
  for (const Group& group : config_groups()) {
    if (group.name == name) return &group;
  }
  return nullptr;
}

const Key* find_key(const Group& group, const std::string& name) {
  for (const Key& key : group.keys) {
    if (key.name == name) return &key;
  }
  return nullptr;
}

std::vector<std::string> group_names() {
  std::vector<std::string> names;
  for (const Group& group : config_groups()) names.push_back(group.name);
  return names;
}

// The key of any group that is called `name`, as "group.name"; empty when there is none.
std::string homonym(const std::string& name) {
  for (const Group& group : config_groups()) {
    if (const Key* key = find_key(group, name)) return key->qualified();
  }
  return "";
}

[[noreturn]] void fail_unknown_group(const std::string& place, const std::string& name) {
  std::string meant = homonym(name);
  if (meant.empty()) meant = nearest(name, group_names());
  const std::string remedy = meant.empty()
                                 ? fmt::format("the groups are {}", fmt::join(group_names(), ", "))
                                 : fmt::format("did you mean {}?", meant);
  fail(place, fmt::format("unknown group {}; {}", name, remedy));
}

[[noreturn]] void fail_unknown_key(const std::string& place, const Group& group,
                                   const std::string& name) {
  std::vector<std::string> names;
  for (const Key& key : group.keys) names.push_back(key.name);
  const std::string here = nearest(name, names);
  std::string meant = homonym(name);
  if (meant.empty() && !here.empty()) meant = group.name + "." + here;
  const std::string remedy =
      meant.empty() ? fmt::format("the keys of {} are {}", group.name, fmt::join(names, ", "))
                    : fmt::format("did you mean {}?", meant);
  fail(place, fmt::format("unknown key {}.{}; {}", group.name, name, remedy));
}

// What a node is, as the "got" of a message.
std::string describe(const YAML::Node& node) {
  switch (node.Type()) {
    case YAML::NodeType::Map:
      return "a map";
    case YAML::NodeType::Sequence:
      return "a list";
    case YAML::NodeType::Scalar:
      return fmt::format("\"{}\"", node.Scalar());
    default:
      return "nothing";
  }
}

// Text that stands for one value: from a scalar node, or from an override.
struct Text {
  std::string text;
  bool quoted = false;  // "64" in quotes is text, never a count
};

bool convert(const Text& from, std::string& value) {
  value = from.text;
  return true;
}

template <class T>
bool assign(const std::optional<T>& parsed, bool quoted, T& value) {
  if (!parsed || quoted) return false;
  value = *parsed;
  return true;
}

bool convert(const Text& from, int64_t& value) {
  return assign(parse_count(from.text), from.quoted, value);
}
bool convert(const Text& from, double& value) {
  return assign(parse_real(from.text), from.quoted, value);
}
bool convert(const Text& from, bool& value) {
  return assign(parse_boolean(from.text), from.quoted, value);
}
bool convert(const Text& from, Mixture& value) {
  value = from.text.empty() ? Mixture{} : Mixture{{from.text, 1.0}};
  return true;
}

std::optional<Text> scalar_of(const YAML::Node& node) {
  if (!node.IsScalar()) return std::nullopt;
  return Text{node.Scalar(), node.Tag() == "!"};  // "!" is how yaml-cpp marks a quoted scalar
}

template <class T>
bool convert(const YAML::Node& node, T& value) {
  const auto text = scalar_of(node);
  return text && convert(*text, value);
}

bool convert(const YAML::Node& node, Mixture& value) {
  if (const auto text = scalar_of(node)) return convert(*text, value);
  if (!node.IsMap()) return false;
  Mixture mixture;
  for (const auto& entry : node) {
    double weight = 0;
    if (!entry.first.IsScalar() || !convert(entry.second, weight)) return false;
    mixture.emplace_back(entry.first.Scalar(), weight);
  }
  value = std::move(mixture);
  return true;
}

// Stores what `from` (a YAML node or Text) says into `key` of `config`; `got` describes it.
template <class From>
void store(const Key& key, const From& from, const std::string& got, const std::string& place,
           Config& config) {
  std::visit(
      [&](const auto& field) {
        auto& value = field.in(config);
        if (convert(from, value)) return;
        fail(place,
             fmt::format("{} must be {} (got {})", key.qualified(), type_text(value).request, got));
      },
      key.field);
}

// Walks one YAML document into a Config.
class DocumentReader {
 public:
  DocumentReader(Config& config, Origins& origins) : config_(config), origins_(origins) {}

  void read(const YAML::Node& document) {
    if (document.IsNull()) return;  // an empty file: everything at its default
    if (!document.IsMap()) {
      fail(place(document),
           fmt::format("a configuration is a map of groups such as model: (got {})",
                       describe(document)));
    }
    std::set<std::string> seen;
    for (const auto& entry : document) {
      const std::string name = unique_name(entry.first, "", seen);
      const Group* group = find_group(name);
      if (group == nullptr) fail_unknown_group(place(entry.first), name);
      read_group(*group, entry.first, entry.second);
    }
  }

 private:
  std::string place(const YAML::Node& node) const {
    return fmt::format("{}:{}", origins_.source(), node.Mark().line + 1);
  }

  // The name that `node` gives a group or key; a second time is an error.
  std::string unique_name(const YAML::Node& node, const std::string& prefix,
                          std::set<std::string>& seen) const {
    if (!node.IsScalar()) {
      fail(place(node), fmt::format("a name was expected (got {})", describe(node)));
    }
    if (!seen.insert(node.Scalar()).second) {
      fail(place(node),
           fmt::format("{}{} is given twice; keep one of them", prefix, node.Scalar()));
    }
    return node.Scalar();
  }

  void read_group(const Group& group, const YAML::Node& name_node, const YAML::Node& node) {
    if (node.IsNull()) return;
    if (!node.IsMap()) {
      fail(place(name_node), fmt::format("{} is a group: it must be a map of keys (got {})",
                                         group.name, describe(node)));
    }
    std::set<std::string> seen;
    for (const auto& entry : node) {
      const std::string name = unique_name(entry.first, group.name + ".", seen);
      const Key* key = find_key(group, name);
      if (key == nullptr) fail_unknown_key(place(entry.first), group, name);
      const std::string where = place(entry.first);
      store(*key, entry.second, describe(entry.second), where, config_);
      origins_.set(key->qualified(), where);
    }
  }

  Config& config_;
  Origins& origins_;
};

// Counts what a text holds before nodes are made of it: of some texts that are no YAML (", a")
// yaml-cpp makes documents without end.
class EventCounter final : public YAML::EventHandler {
 public:
  explicit EventCounter(const std::string& source) : source_(source) {}

  void OnDocumentStart(const YAML::Mark&) override { count(); }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override { count(); }
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override { count(); }
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t,
                const std::string&) override {
    count();
  }
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {
    count();
  }
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                  YAML::EmitterStyle::value) override {
    count();
  }
  void OnMapEnd() override {}

 private:
  void count() {
    constexpr int64_t kMostEvents = 1'000'000;
    if (++events_ > kMostEvents) {
      fail(source_, fmt::format("not valid YAML: it holds more than {} values", kMostEvents));
    }
  }

  const std::string& source_;
  int64_t events_ = 0;
};

// The single document of `text`, as yaml-cpp reads it.
YAML::Node load_document(const std::string& text, const std::string& source) {
  try {
    std::istringstream stream(text);
    YAML::Parser parser(stream);
    EventCounter counter(source);
    const bool any = parser.HandleNextDocument(counter);
    if (any && parser.HandleNextDocument(counter)) {
      fail(source, "a configuration is one YAML document (got more than one)");
    }
    return any ? YAML::Load(text) : YAML::Node();
  } catch (const YAML::Exception& error) {
    fail(fmt::format("{}:{}", source, error.mark.line + 1),
         fmt::format("not valid YAML: {}", error.msg));
  }
}

void apply_override(const std::string& text, Config& config, Origins& origins) {
  const std::string where = "override " + text;
  const size_t equals = text.find('=');
  const size_t dot = text.find('.');
  if (equals == std::string::npos || dot == std::string::npos || dot > equals) {
    fail(where, "an override is written group.key=value, such as optimizer.lr=2e-4");
  }
  const std::string group_name = text.substr(0, dot);
  const std::string key_name = text.substr(dot + 1, equals - dot - 1);
  const std::string value = text.substr(equals + 1);
  const Group* group = find_group(group_name);
  if (group == nullptr) fail_unknown_group(where, group_name);
  const Key* key = find_key(*group, key_name);
  if (key == nullptr) fail_unknown_key(where, *group, key_name);

  const bool is_map = std::holds_alternative<Field<Mixture>>(key->field) && value.starts_with('{');
  const std::string got = fmt::format("\"{}\"", value);
  if (is_map) {
    store(*key, load_document(value, where), got, where, config);
  } else {
    store(*key, Text{value}, got, where, config);
  }
  origins.set(key->qualified(), where);
}

}  // namespace

Config parse_config(const std::string& text, const std::string& source,
                    const std::vector<std::string>& overrides) {
  Config config;
  Origins origins(source);
  DocumentReader(config, origins).read(load_document(text, source));
  for (const std::string& override_text : overrides) {
    apply_override(override_text, config, origins);
  }
  check_config(config, origins);
  return config;
}

Config load_config(const std::string& path, const std::vector<std::string>& overrides) {
  const auto refuse = [&](std::error_code why) {
    fail(path, fmt::format("cannot read this configuration: {}", why.message()));
  };
  if (std::filesystem::is_directory(path)) refuse(std::make_error_code(std::errc::is_a_directory));
  constexpr uintmax_t kLargestFile = 16 << 20;
  std::error_code unknown;
  if (const uintmax_t bytes = std::filesystem::file_size(path, unknown);
      !unknown && bytes > kLargestFile) {
    refuse(std::make_error_code(std::errc::file_too_large));
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) refuse(std::error_code(errno, std::generic_category()));
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  return parse_config(text, path, overrides);
}

}  // namespace gsa
