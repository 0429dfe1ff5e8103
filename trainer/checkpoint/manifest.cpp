#include "trainer/checkpoint/manifest.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <stdexcept>
#include <string_view>
#include <system_error>

#include "trainer/checkpoint/rectangles.h"

namespace gsa {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view format_name = "gsa checkpoint";
constexpr int64_t format_version = 3;
constexpr int64_t most_ranks = 1'000'000;  // sizes beyond these are not believed
constexpr int64_t most_elements = int64_t{1} << 62;
constexpr uintmax_t most_manifest_bytes = 1 << 30;

std::string json_string(std::string_view text) {
  std::string result = "\"";
  for (const char character : text) {
    const auto code = static_cast<unsigned char>(character);
    if (character == '"' || character == '\\') {
      result += '\\';
      result += character;
    } else if (character == '\n') {
      result += "\\n";
    } else if (code < 0x20) {
      std::array<char, 8> escape{};
      std::snprintf(escape.data(), escape.size(), "\\u%04x", code);
      result += escape.data();
    } else {
      result += character;
    }
  }
  return result + "\"";
}

// Walks over a manifest, taking from it what is expected to come next.
class Reader {
 public:
  Reader(std::string_view text, const std::string& origin) : text_(text), origin_(origin) {}

  size_t position() const { return position_; }
  bool at_end() const { return position_ == text_.size(); }

  bool comes(std::string_view literal) const {
    return text_.substr(position_, literal.size()) == literal;
  }

  void expect(std::string_view literal) {
    if (!takes(literal)) {
      fail("expected '" + std::string(literal) + "'");
    }
  }

  // Goes over the literal if it comes.
  bool takes(std::string_view literal) {
    const bool found = comes(literal);
    position_ += found ? literal.size() : 0;
    return found;
  }

  int64_t integer(int64_t least, int64_t most) {
    int64_t value = 0;
    const char* begin = text_.data() + position_;
    const auto [end, error] = std::from_chars(begin, text_.data() + text_.size(), value);
    if (error != std::errc() || value < least || value > most) {
      fail("expected a number from " + std::to_string(least) + " to " + std::to_string(most));
    }
    position_ += static_cast<size_t>(end - begin);
    return value;
  }

  double real() {
    double value = 0;
    const char* begin = text_.data() + position_;
    const auto [end, error] = std::from_chars(begin, text_.data() + text_.size(), value);
    if (error != std::errc() || !std::isfinite(value)) {
      fail("expected a finite number");
    }
    position_ += static_cast<size_t>(end - begin);
    return value;
  }

  std::string string() {
    expect("\"");
    std::string result;
    while (true) {
      const char character = next();
      if (character == '"') {
        return result;
      }
      result += character == '\\' ? escaped() : character;
    }
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw CheckpointError(origin_ + ": damaged at byte " + std::to_string(position_) + ": " + what +
                          "; use an earlier checkpoint");
  }

 private:
  char next() {
    if (at_end()) {
      fail("it ends too early");
    }
    return text_[position_++];
  }

  char escaped() {
    const char character = next();
    if (character == '"' || character == '\\') {
      return character;
    }
    if (character == 'n') {
      return '\n';
    }
    constexpr size_t digits = 4;
    unsigned code = 0;
    const char* begin = text_.data() + position_;
    if (character != 'u' || text_.size() - position_ < digits ||
        std::from_chars(begin, begin + digits, code, 16).ptr != begin + digits || code >= 0x20) {
      fail("an escape that the manifest does not use");
    }
    position_ += digits;
    return static_cast<char>(code);
  }

  std::string_view text_;
  const std::string& origin_;
  size_t position_ = 0;
};

// A manifest's own numbers, by name, in the order of the file.
struct NumberMember {
  const char* name;
  int64_t CheckpointMetadata::*value;
};
constexpr std::array number_members{
    NumberMember{"step", &CheckpointMetadata::step},
    NumberMember{"optimizer_step", &CheckpointMetadata::optimizer_step},
    NumberMember{"tokens_seen", &CheckpointMetadata::tokens_seen},
    NumberMember{"next_sample", &CheckpointMetadata::next_sample},
    NumberMember{"seed", &CheckpointMetadata::seed},
};

std::string member(std::string_view name) {
  return "  " + json_string(name) + ": ";
}

// Values with ", " between them, each written by `text_of`.
template <typename Values, typename TextOf>
std::string list(const Values& values, const TextOf& text_of) {
  std::string text;
  for (const auto& value : values) {
    text += text.empty() ? "" : ", ";
    text += text_of(value);
  }
  return text;
}

// Reads such a list, up to `closing`, each value by `parse`.
template <typename Parse>
void parse_list(Reader& reader, std::string_view closing, const Parse& parse) {
  for (bool first = true; !reader.comes(closing); first = false) {
    if (!first) {
      reader.expect(", ");
    }
    parse();
  }
  reader.expect(closing);
}

// Reads back to the same bits.
std::string real_text(double value) {
  std::array<char, 32> digits{};
  return {digits.data(), std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr};
}

std::string integer_text(int64_t value) {
  return std::to_string(value);
}

using TextMap = std::map<std::string, std::string>;

std::string map_text(const TextMap& map) {
  return "{" +
         list(map,
              [](const auto& entry) {
                return json_string(entry.first) + ": " + json_string(entry.second);
              }) +
         "}";
}

TextMap parse_map(Reader& reader) {
  TextMap map;
  reader.expect("{");
  parse_list(reader, "}", [&] {
    const std::string name = reader.string();
    reader.expect(": ");
    map[name] = reader.string();
  });
  return map;
}

// They become lines of words, where a blank or a new line would make others of them.
bool is_word(std::string_view text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c <= '~'; });
}

TextMap parse_products(Reader& reader) {
  TextMap products = parse_map(reader);
  for (const auto& [name, algorithm] : products) {
    if (!is_word(name) || !is_word(algorithm)) {
      reader.fail("the name and the algorithm of a product are a word each");
    }
  }
  return products;
}

std::string parameter_text(const CheckpointParameter& parameter) {
  return "    {\"name\": " + json_string(parameter.name) + ", \"shape\": [" +
         list(parameter.shape, integer_text) + "]}";
}

CheckpointParameter parse_parameter(Reader& reader) {
  CheckpointParameter parameter;
  reader.expect("    {\"name\": ");
  parameter.name = reader.string();
  reader.expect(", \"shape\": [");
  parse_list(reader, "]", [&] { parameter.shape.push_back(reader.integer(1, most_elements)); });
  reader.expect("}");
  return parameter;
}

std::vector<CheckpointParameter> parse_parameters(Reader& reader) {
  std::vector<CheckpointParameter> parameters;
  int64_t total = 0;
  reader.expect("[\n");
  do {
    parameters.push_back(parse_parameter(reader));
    int64_t count = 0;
    try {
      count = element_count(parameters.back().shape);
    } catch (const std::invalid_argument& error) {
      reader.fail(error.what());
    }
    if (count > most_elements - total) {
      reader.fail("more elements than any model has");
    }
    total += count;
  } while (reader.takes(",\n"));
  reader.expect("\n  ]");
  return parameters;
}

// What a rank's file has beyond name, size and checksum.
std::string parts_text(const RankFileParts& parts) {
  std::string text = ", \"elements\": " + std::to_string(parts.elements);
  for (size_t i = 0; i < flat_buffers.size(); ++i) {
    text +=
        std::string(", \"") + flat_buffers[i].dataset + "\": " + std::to_string(parts.buffers[i]);
  }
  return text + ", \"rows\": " + std::to_string(parts.rows) +
         ", \"ranges\": " + std::to_string(parts.ranges);
}

RankFileParts parse_parts(Reader& reader) {
  constexpr int64_t most = std::numeric_limits<int64_t>::max();
  RankFileParts parts;
  reader.expect(", \"elements\": ");
  parts.elements = reader.integer(0, most);
  for (size_t i = 0; i < flat_buffers.size(); ++i) {
    reader.expect(std::string(", \"") + flat_buffers[i].dataset + "\": ");
    parts.buffers[i] = static_cast<uint64_t>(reader.integer(0, most));
  }
  reader.expect(", \"rows\": ");
  parts.rows = reader.integer(0, most);
  reader.expect(", \"ranges\": ");
  parts.ranges = static_cast<uint64_t>(reader.integer(0, most));
  return parts;
}

bool is_of_a_rank(const std::string& name) {
  return name != model_file_name;
}

std::string file_text(const ManifestFile& file) {
  return "    {\"name\": " + json_string(file.name) +
         ", \"bytes\": " + std::to_string(file.digest.bytes) +
         ", \"xxh3\": " + json_string(checksum_text(file.digest.xxh3)) +
         (is_of_a_rank(file.name) ? parts_text(file.parts) : "") + "}";
}

ManifestFile parse_file(Reader& reader, const std::string& name) {
  constexpr int64_t most = std::numeric_limits<int64_t>::max();
  ManifestFile file{.name = name};
  reader.expect("    {\"name\": " + json_string(name) + ", \"bytes\": ");
  file.digest.bytes = static_cast<uint64_t>(reader.integer(0, most));
  reader.expect(", \"xxh3\": ");
  const std::string checksum = reader.string();
  const char* end = checksum.data() + checksum.size();
  if (checksum.size() != 16 ||
      std::from_chars(checksum.data(), end, file.digest.xxh3, 16).ptr != end) {
    reader.fail("expected a checksum of 16 hexadecimal digits");
  }
  if (is_of_a_rank(name)) {
    file.parts = parse_parts(reader);
    if (!file.parts.fit(file.digest.bytes)) {
      reader.fail("the parts of " + name + " lie outside of it");
    }
  }
  reader.expect("}");
  return file;
}

// Every rank's file, and the model's.
std::vector<ManifestFile> parse_files(Reader& reader, int ranks) {
  std::vector<ManifestFile> files;
  reader.expect("[\n");
  for (int rank = 0; rank < ranks; ++rank) {
    files.push_back(parse_file(reader, rank_file_name(rank)));
    reader.expect(",\n");
  }
  files.push_back(parse_file(reader, model_file_name));
  reader.expect("\n  ]");
  return files;
}

// Objects on a line each.
template <typename Objects, typename TextOf>
std::string lines(const Objects& objects, const TextOf& text_of) {
  std::string text = "[";
  for (const auto& object : objects) {
    text += text.size() == 1 ? "\n" : ",\n";
    text += text_of(object);
  }
  return text + "\n  ]";
}

void require_version(Reader& reader, const std::string& origin) {
  const std::string opening = "{\n" + member("format") + json_string(format_name) + ",\n";
  if (!reader.takes(opening)) {
    throw CheckpointError(origin + ": this is not the manifest of a checkpoint, or it is damaged");
  }
  reader.expect(member("version"));
  const int64_t version =
      reader.integer(std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max());
  if (version != format_version) {
    throw CheckpointError(origin + ": written in version " + std::to_string(version) +
                          " of the format; this program reads version " +
                          std::to_string(format_version) +
                          ": use the program that wrote the checkpoint");
  }
  reader.expect(",\n");
}

}  // namespace

std::string rank_file_name(int rank) {
  std::array<char, 32> name{};
  std::snprintf(name.data(), name.size(), "rank-%04d.h5", rank);
  return name.data();
}

std::string manifest_text(const Manifest& manifest) {
  const CheckpointMetadata& metadata = manifest.metadata;
  std::string text = "{\n" + member("format") + json_string(format_name) + ",\n" +
                     member("version") + std::to_string(format_version) + ",\n";
  for (const NumberMember& number : number_members) {
    text += member(number.name) + std::to_string(metadata.*number.value) + ",\n";
  }
  text += member("recent_losses") + "[" + list(metadata.recent_losses, real_text) + "],\n";
  text += member("ranks") + std::to_string(metadata.ranks) + ",\n";
  text += member("config") + json_string(metadata.config) + ",\n";
  text += member("versions") + map_text(metadata.versions) + ",\n";
  text += member("product_library") + json_string(metadata.product_library) + ",\n";
  text += member("products") + map_text(metadata.products) + ",\n";
  text += member("parameters") + lines(manifest.parameters, parameter_text) + ",\n";
  text += member("files") + lines(manifest.files, file_text) + ",\n";
  return text + member("xxh3") + json_string(text_checksum(text)) + "\n}\n";
}

Manifest parse_manifest(std::string_view text, const std::string& origin) {
  Reader reader(text, origin);
  require_version(reader, origin);
  Manifest manifest;
  CheckpointMetadata& metadata = manifest.metadata;
  for (const NumberMember& number : number_members) {
    reader.expect(member(number.name));
    metadata.*number.value =
        reader.integer(std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max());
    reader.expect(",\n");
  }
  reader.expect(member("recent_losses") + "[");
  parse_list(reader, "]", [&] { metadata.recent_losses.push_back(reader.real()); });
  reader.expect(",\n" + member("ranks"));
  metadata.ranks = static_cast<int>(reader.integer(1, most_ranks));
  reader.expect(",\n" + member("config"));
  metadata.config = reader.string();
  reader.expect(",\n" + member("versions"));
  metadata.versions = parse_map(reader);
  reader.expect(",\n" + member("product_library"));
  metadata.product_library = reader.string();
  reader.expect(",\n" + member("products"));
  metadata.products = parse_products(reader);
  reader.expect(",\n" + member("parameters"));
  manifest.parameters = parse_parameters(reader);
  reader.expect(",\n" + member("files"));
  manifest.files = parse_files(reader, metadata.ranks);
  reader.expect(",\n");
  const std::string checksum = text_checksum(text.substr(0, reader.position()));
  reader.expect(member("xxh3") + json_string(checksum) + "\n}\n");
  if (!reader.at_end()) {
    reader.fail("it goes on after its end");
  }
  // Numbers and escapes can be written in other ways too: nothing writes them so.
  if (manifest_text(manifest) != text) {
    reader.fail("it says what it says in other words than it was written in");
  }
  return manifest;
}

Manifest read_manifest(const fs::path& checkpoint) {
  const fs::path path = checkpoint / manifest_name;
  std::error_code error;
  const uintmax_t bytes = fs::file_size(path, error);
  if (error) {
    throw CheckpointError(path.string() + ": " + error.message() +
                          "; this folder is not a checkpoint, or not a whole one");
  }
  if (bytes > most_manifest_bytes) {
    throw CheckpointError(path.string() + ": too large to be a manifest");
  }
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  Manifest manifest = parse_manifest(text, path.string());
  for (const ManifestFile& entry : manifest.files) {
    const fs::path entry_path = checkpoint / entry.name;
    const uintmax_t size = fs::file_size(entry_path, error);
    if (error) {
      throw CheckpointError(entry_path.string() + ": " + error.message() +
                            "; the checkpoint is not whole: use an earlier one");
    }
    if (size != entry.digest.bytes) {
      throw CheckpointError(entry_path.string() + ": has " + std::to_string(size) +
                            " bytes, was written with " + std::to_string(entry.digest.bytes) +
                            "; the checkpoint is damaged: use an earlier one");
    }
  }
  return manifest;
}

}  // namespace gsa
