#pragma once

#include <filesystem>
#include <memory>
#include <vector>

#include "data/token_file.h"

namespace gsa::data {

/// llm.c's token files: 256 int32 of header (magic, version, number of tokens), then the tokens,
/// uint16 (magic 20240520, version 1) or uint32 (magic 20240801, version 7). Documents are not
/// marked; the files that llm.c's scripts write begin each with an end-of-text token, which is the
/// file's first token. Source: dev/data/data_common.py of llm.c.

/// Whether `path` is such a file, or a folder whose .bin files are.
bool is_llmc(const std::filesystem::path& path);

/// The files of `path` in natural order: itself, or the folder's .bin files.
std::vector<std::filesystem::path> llmc_files(const std::filesystem::path& path);

/// Maps one file. Throws DataError when it is torn.
std::unique_ptr<TokenFile> open_llmc(const std::filesystem::path& path);

}  // namespace gsa::data
