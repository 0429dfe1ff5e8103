// The small part of JSON that metrics and events need: objects of numbers and texts, nested.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace gsa {

// A number, a text, or an object of such values by name.
struct JsonValue {
  enum class Kind : uint8_t { number, text, object };
  Kind kind = Kind::number;
  double number = 0;  // not-a-number for null
  std::string text;
  std::map<std::string, JsonValue> members;
};

// Writes an object member by member, in the order of the calls. Numbers keep all their bits; one
// that is not finite becomes null.
class JsonWriter {
 public:
  JsonWriter& begin_object(std::string_view name = "");
  JsonWriter& end_object();
  JsonWriter& number(std::string_view name, double value);
  JsonWriter& integer(std::string_view name, long long value);
  JsonWriter& text(std::string_view name, std::string_view value);

  const std::string& written() const { return text_; }

 private:
  void member(std::string_view name);

  std::string text_;
};

// Reads one object. Throws std::runtime_error with the position of what it does not understand.
JsonValue parse_json_line(std::string_view text);

}  // namespace gsa
