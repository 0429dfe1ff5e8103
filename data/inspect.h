#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "data/index.h"
#include "data/sources.h"

namespace gsa::data {

struct InspectOptions {
  bool verify = true;          ///< read every shard, check its checksum and count its tokens
  int threads = 0;             ///< for that; 0: one for each processor
  int samples_per_source = 1;  ///< pieces of text shown of each source
};

/// The start of one document, decoded.
struct TextSample {
  SourceId source = kUnknownSource;
  std::string shard;
  int64_t document = 0;  ///< in the shard
  int64_t tokens = 0;    ///< of the whole document
  std::string text;
};

/// What a folder of shards holds.
struct FolderReport {
  std::filesystem::path folder;
  FolderIndex index;
  bool verified = false;            ///< all checksums were read and compared
  std::vector<std::string> faults;  ///< what is wrong with which shard; empty: all good
  /// Of the distribution of single tokens, nats: the loss of a model that knows nothing but how
  /// frequent each token is. Known when all shards were read and are good.
  std::optional<double> unigram_entropy;
  std::vector<TextSample> samples;
};

/// Whether `path` is a folder that holds shards, finished or not.
bool is_shard_folder(const std::filesystem::path& path);

/// Looks through a folder of shards. Damaged shards are listed in the report, in the folder's
/// order; throws DataError when the folder or its index is missing.
FolderReport inspect_folder(const std::filesystem::path& folder, const InspectOptions& options);

/// The report for a reader: tokenizer, documents and tokens by source, checksums, samples.
std::string describe(const FolderReport& report);

}  // namespace gsa::data
