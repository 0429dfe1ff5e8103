#include "trainer/checkpoint/manifest.h"

#include <array>
#include <charconv>
#include <cmath>
#include <fstream>
#include <iterator>
#include <limits>
#include <set>
#include <span>
#include <string_view>
#include <system_error>

namespace gsa {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view format_name = "gsa checkpoint";
constexpr int64_t format_version = 2;
constexpr int64_t oldest_version = 1;      // without recent_losses
constexpr int64_t most_ranks = 1'000'000;  // sizes beyond these are not believed
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
    if (!comes(literal)) {
      fail("expected '" + std::string(literal) + "'");
    }
    position_ += literal.size();
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

// Numbers that read back to the same bits.
std::string real_list(std::span<const double> values) {
  std::string text = "[";
  for (size_t i = 0; i < values.size(); ++i) {
    std::array<char, 32> digits{};
    const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), values[i]).ptr;
    text += (i == 0 ? "" : ", ") + std::string(digits.data(), end);
  }
  return text + "]";
}

std::vector<double> parse_reals(Reader& reader) {
  std::vector<double> values;
  reader.expect("[");
  while (!reader.comes("]")) {
    if (!values.empty()) {
      reader.expect(", ");
    }
    values.push_back(reader.real());
  }
  reader.expect("]");
  return values;
}

ManifestFile parse_file(Reader& reader) {
  constexpr int64_t most = std::numeric_limits<int64_t>::max();
  ManifestFile file;
  reader.expect("    {\"name\": ");
  file.name = reader.string();
  if (file.name.empty() || file.name.find('/') != std::string::npos || file.name == ".." ||
      file.name == "." || file.name.find('\0') != std::string::npos) {
    reader.fail("the name of a file must be a plain one");
  }
  reader.expect(", \"bytes\": ");
  file.digest.bytes = static_cast<uint64_t>(reader.integer(0, most));
  reader.expect(", \"xxh3\": ");
  const std::string checksum = reader.string();
  const char* end = checksum.data() + checksum.size();
  if (checksum.size() != 16 ||
      std::from_chars(checksum.data(), end, file.digest.xxh3, 16).ptr != end) {
    reader.fail("expected a checksum of 16 hexadecimal digits");
  }
  reader.expect("}");
  return file;
}

// The files must be the model's and one of each rank.
void require_files(const Manifest& manifest, const Reader& reader) {
  // Before a number of ranks that is not true makes names for a million of them.
  if (manifest.files.size() > static_cast<size_t>(manifest.metadata.ranks) + 1) {
    reader.fail("it lists more files than " + std::to_string(manifest.metadata.ranks) +
                " ranks have");
  }
  std::set<std::string> missing{model_file_name};
  for (int rank = 0; rank < manifest.metadata.ranks; ++rank) {
    missing.insert(rank_file_name(rank));
  }
  for (const ManifestFile& file : manifest.files) {
    if (missing.erase(file.name) == 0) {
      reader.fail("file " + file.name + " does not belong to a checkpoint of " +
                  std::to_string(manifest.metadata.ranks) + " ranks");
    }
  }
  if (!missing.empty()) {
    reader.fail("file " + *missing.begin() + " is not listed");
  }
}

// The manifest as a program of this version of the format writes it.
std::string text_in_version(const Manifest& manifest, int64_t format) {
  const CheckpointMetadata& metadata = manifest.metadata;
  std::string text = "{\n" + member("format") + json_string(format_name) + ",\n" +
                     member("version") + std::to_string(format) + ",\n";
  for (const NumberMember& number : number_members) {
    text += member(number.name) + std::to_string(metadata.*number.value) + ",\n";
  }
  if (format > oldest_version) {
    text += member("recent_losses") + real_list(metadata.recent_losses) + ",\n";
  }
  text += member("ranks") + std::to_string(metadata.ranks) + ",\n";
  text += member("config") + json_string(metadata.config) + ",\n";
  text += member("versions") + "{";
  const char* separator = "";
  for (const auto& [name, version] : metadata.versions) {
    text += separator + json_string(name) + ": " + json_string(version);
    separator = ", ";
  }
  text += "},\n" + member("files") + "[\n";
  separator = "";
  for (const ManifestFile& file : manifest.files) {
    text += separator;
    text += "    {\"name\": " + json_string(file.name) +
            ", \"bytes\": " + std::to_string(file.digest.bytes) +
            ", \"xxh3\": " + json_string(checksum_text(file.digest.xxh3)) + "}";
    separator = ",\n";
  }
  text += "\n  ],\n";
  return text + member("xxh3") + json_string(text_checksum(text)) + "\n}\n";
}

}  // namespace

std::string rank_file_name(int rank) {
  std::array<char, 32> name{};
  std::snprintf(name.data(), name.size(), "rank-%04d.h5", rank);
  return name.data();
}

std::string manifest_text(const Manifest& manifest) {
  return text_in_version(manifest, format_version);
}

Manifest parse_manifest(std::string_view text, const std::string& origin) {
  constexpr int64_t least = std::numeric_limits<int64_t>::min();
  constexpr int64_t most = std::numeric_limits<int64_t>::max();
  Reader reader(text, origin);
  const std::string opening = "{\n" + member("format") + json_string(format_name) + ",\n";
  if (!reader.comes(opening)) {
    throw CheckpointError(origin + ": this is not the manifest of a checkpoint, or it is damaged");
  }
  reader.expect(opening);
  reader.expect(member("version"));
  const int64_t version = reader.integer(least, most);
  if (version < oldest_version || version > format_version) {
    throw CheckpointError(origin + ": written in version " + std::to_string(version) +
                          " of the format; this program reads versions " +
                          std::to_string(oldest_version) + " to " + std::to_string(format_version));
  }
  reader.expect(",\n");
  Manifest manifest;
  CheckpointMetadata& metadata = manifest.metadata;
  for (const NumberMember& number : number_members) {
    reader.expect(member(number.name));
    metadata.*number.value = reader.integer(least, most);
    reader.expect(",\n");
  }
  if (version > oldest_version) {
    reader.expect(member("recent_losses"));
    metadata.recent_losses = parse_reals(reader);
    reader.expect(",\n");
  }
  reader.expect(member("ranks"));
  metadata.ranks = static_cast<int>(reader.integer(1, most_ranks));
  reader.expect(",\n" + member("config"));
  metadata.config = reader.string();
  reader.expect(",\n" + member("versions") + "{");
  while (!reader.comes("}")) {
    if (!metadata.versions.empty()) {
      reader.expect(", ");
    }
    const std::string name = reader.string();
    reader.expect(": ");
    metadata.versions[name] = reader.string();
  }
  reader.expect("},\n" + member("files") + "[\n");
  manifest.files.push_back(parse_file(reader));
  while (reader.comes(",\n")) {
    reader.expect(",\n");
    manifest.files.push_back(parse_file(reader));
  }
  reader.expect("\n  ],\n");
  const std::string checksum = text_checksum(text.substr(0, reader.position()));
  reader.expect(member("xxh3") + json_string(checksum) + "\n}\n");
  if (!reader.at_end()) {
    reader.fail("it goes on after its end");
  }
  require_files(manifest, reader);
  // Numbers and escapes can be written in other ways too: nothing writes them so.
  if (text_in_version(manifest, version) != text) {
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
