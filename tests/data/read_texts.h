#pragma once

#include <filesystem>
#include <limits>
#include <string>
#include <vector>

namespace gsa::data::test {

/// The texts of the input's documents, in the order in which `tokenize` puts them into shards,
/// until their bytes reach `limit`. Lines that hold no text are passed over.
std::vector<std::string> read_texts(const std::vector<std::filesystem::path>& inputs,
                                    size_t limit = std::numeric_limits<size_t>::max());

}  // namespace gsa::data::test
