// Values as text, for messages and for YAML.
#pragma once

#include <cstdint>
#include <string>

#include "trainer/config/schema.h"

namespace gsa {

// A value as messages and the reference show it; text stands in quotes.
std::string value_text(const std::string& value);
std::string value_text(int64_t value);
std::string value_text(double value);
std::string value_text(bool value);
std::string value_text(const Mixture& value);

}  // namespace gsa
