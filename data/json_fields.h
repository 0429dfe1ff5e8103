#pragma once

#include <simdjson.h>

#include <cstdint>
#include <string>
#include <string_view>

namespace gsa::data {

// The fields of a parsed JSON object. Each function throws simdjson_error when the field is missing
// or of another type. For the .cpp files that read JSON: it brings all of simdjson with it.

inline simdjson::dom::element field(simdjson::dom::element object, std::string_view name) {
  simdjson::dom::element value;
  if (const auto error = object[name].get(value)) throw simdjson::simdjson_error(error);
  return value;
}

template <class T>
T field_as(simdjson::dom::element object, std::string_view name) {
  T value;
  if (const auto error = field(object, name).get(value)) throw simdjson::simdjson_error(error);
  return value;
}

inline simdjson::dom::array array_field(simdjson::dom::element object, std::string_view name) {
  return field_as<simdjson::dom::array>(object, name);
}

inline int64_t int_field(simdjson::dom::element object, std::string_view name) {
  return field_as<int64_t>(object, name);
}

inline std::string text_field(simdjson::dom::element object, std::string_view name) {
  return std::string(field_as<std::string_view>(object, name));
}

}  // namespace gsa::data
