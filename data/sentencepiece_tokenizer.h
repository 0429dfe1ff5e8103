#pragma once

#include <filesystem>
#include <memory>

#include "data/tokenizer.h"

namespace gsa::data {

/// A SentencePiece model from its file. The ids are those of SentencePiece's own Encode (what
/// `spm_encode` prints), and a document takes bounded memory:
///
/// - Byte-pair models with byte fallback and identity normalization (Mistral, Llama) are cut
/// wherever
///   no piece of the vocabulary could span the cut (piece_boundaries.h), each run is encoded by
///   itself, and short runs are remembered. That gives the same ids, several times as fast.
/// - Other models get the whole document, up to 256 KiB at once. Longer documents are cut before a
///   space, which is exact as long as no piece spans one.
///
/// Throws DataError when the file is missing, is no model, or has no end-of-sequence token.
std::unique_ptr<Tokenizer> load_sentencepiece(const std::filesystem::path& path);

}  // namespace gsa::data
