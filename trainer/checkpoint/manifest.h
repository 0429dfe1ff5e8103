// manifest.json: what makes a folder a checkpoint. For this folder only.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/files.h"
#include "trainer/checkpoint/rank_file.h"

namespace gsa {

inline constexpr const char* manifest_name = "manifest.json";
inline constexpr const char* model_file_name = "model.h5";

// "rank-0003.h5"
std::string rank_file_name(int rank);

struct ManifestFile {
  std::string name;
  FileDigest digest;
  RankFileParts parts;  // of a rank's file
};

struct Manifest {
  CheckpointMetadata metadata;
  std::vector<CheckpointParameter> parameters;  // in the model's order
  std::vector<ManifestFile> files;              // the ranks', in their order, and the model's
};

// The manifest as JSON, one member a line, in a fixed order, closed by the XXH3 of all lines
// before.
std::string manifest_text(const Manifest& manifest);

// Reads exactly what manifest_text writes and nothing else: any other byte is an error, and so is a
// rank's file whose parts do not lie in its bytes, and parameters of more than 2^62 elements.
// Throws CheckpointError that begins with `origin` (the file's path).
Manifest parse_manifest(std::string_view text, const std::string& origin);

// Reads a checkpoint folder's manifest, and checks that its files are there with their sizes.
Manifest read_manifest(const std::filesystem::path& checkpoint);

}  // namespace gsa
