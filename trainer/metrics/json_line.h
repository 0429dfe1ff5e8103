// The small part of JSON that metrics need: objects of numbers, nested.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace gsa {

// A number, or an object of such values by name.
struct JsonValue {
  double number = 0;  // not-a-number for null
  std::map<std::string, JsonValue> members;
  bool is_object = false;
};

// Writes an object member by member, in the order of the calls. Numbers keep all their bits; one
// that is not finite becomes null.
class JsonWriter {
 public:
  JsonWriter& begin_object(std::string_view name = "");
  JsonWriter& end_object();
  JsonWriter& number(std::string_view name, double value);
  JsonWriter& integer(std::string_view name, long long value);

  const std::string& text() const { return text_; }

 private:
  void member(std::string_view name);

  std::string text_;
};

// Reads one object. Throws std::runtime_error with the position of what it does not understand.
JsonValue parse_json_line(std::string_view text);

}  // namespace gsa
