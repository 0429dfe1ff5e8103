// For the targets of files that are opened by path.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "tests/fuzz/targets.h"

namespace gsa::fuzz {

// This process's folder, in memory where the machine has that; made when first asked for, removed
// at the end.
const std::filesystem::path& scratch_folder();

// Writes a file of that folder anew and returns its path.
std::filesystem::path scratch_file(const std::string& name, Bytes bytes);

inline std::string_view text_of(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
inline Bytes bytes_of(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// Ends the process, as a finding, with these words, unless the condition holds.
void require(bool condition, const char* what);

}  // namespace gsa::fuzz
