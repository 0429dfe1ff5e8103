// The table behind the configuration: one entry a key. Parsing, checking, writing and the reference
// all walk this table, so a new key is one member in config.h and one line in schema.cpp.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "trainer/config/config.h"

namespace gsa {

// Shard folders and their weights, as `data.train` holds them.
using Mixture = std::vector<std::pair<std::string, double>>;

// What a value must be besides its type: `text` completes "KEY must be ...".
template <class T>
struct Rule {
  std::string text;
  std::function<bool(const T&)> holds;
};

// Where a key's value lies in a configuration, and its rules.
template <class T>
struct Field {
  std::function<T&(Config&)> in;
  std::vector<Rule<T>> rules;
};

using AnyField =
    std::variant<Field<std::string>, Field<int64_t>, Field<double>, Field<bool>, Field<Mixture>>;

struct Key {
  std::string group;
  std::string name;
  std::string description;
  AnyField field;

  std::string qualified() const { return group + "." + name; }
};

struct Group {
  std::string name;
  std::string description;
  std::vector<Key> keys;
};

// Every group with its keys, in the order in which they are written.
const std::vector<Group>& config_groups();

// A type's name in the reference, and what a message asks for ("a count: ...").
struct TypeText {
  std::string_view name;
  std::string_view request;
};

TypeText type_text(const std::string& value);
TypeText type_text(int64_t value);
TypeText type_text(double value);
TypeText type_text(bool value);
TypeText type_text(const Mixture& value);

}  // namespace gsa
