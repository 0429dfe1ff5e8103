#pragma once

#include <filesystem>
#include <memory>
#include <string_view>

#include "data/token_file.h"

namespace gsa::data {

/// Megatron-LM's indexed format: PREFIX.bin holds the tokens, PREFIX.idx (magic "MMIDIDX", version
/// 1) the token type and each sequence's length and place. Source: IndexedDataset in Megatron-LM's
/// megatron/core/datasets/indexed_dataset.py. README.md has the layout.

/// Whether `path` names such a pair: PREFIX, PREFIX.idx or PREFIX.bin, with a PREFIX.idx that has
/// the magic.
bool is_megatron(const std::filesystem::path& path);

/// Maps the pair. Documents are those of the index. Sequences are taken to lie back to back, as
/// Megatron-LM writes them; the last must end where the .bin ends. Throws DataError when a file is
/// missing or torn, or the tokens are of a type that holds no token ids (float).
std::unique_ptr<TokenFile> open_megatron(const std::filesystem::path& path);

/// The prefix that `gsa tokenize --to megatron` gives such a pair in its output folder.
inline constexpr std::string_view kMegatronName = "text_document";

/// Writes the shards of `folder` as PREFIX.bin and PREFIX.idx, uint16 or int32 by vocabulary, one
/// sequence a document. Throws DataError and OutputError.
void write_megatron(const std::filesystem::path& folder, const std::filesystem::path& prefix);

}  // namespace gsa::data
