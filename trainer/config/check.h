// Checks of values, each by its rule and all against each other.
#pragma once

#include <initializer_list>
#include <map>
#include <string>

#include "trainer/config/config.h"

namespace gsa {

// Where values come from, so that a message names the place: `configs/x.yaml:14`, or
// `override model.slots=20`; the source alone for a value that was left at its default.
class Origins {
 public:
  explicit Origins(std::string source) : source_(std::move(source)) {}

  const std::string& source() const { return source_; }
  void set(const std::string& key, std::string place) { places_[key] = std::move(place); }

  // Whether `key` ("group.name") was given at all.
  bool given(const std::string& key) const { return places_.contains(key); }

  // The place of the first of `keys` that was given, else the source.
  const std::string& place(std::initializer_list<std::string> keys) const;

 private:
  std::string source_;
  std::map<std::string, std::string> places_;
};

// Checks every value of `config`: required keys, each key's rules, and what keys demand of each
// other. Throws ConfigError with the place from `origins`, the rule and the value.
void check_config(const Config& config, const Origins& origins);

}  // namespace gsa
