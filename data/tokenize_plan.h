#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "data/block_reader.h"

namespace gsa::data {

/// One shard to be made: its file name and the input files that go into it, in order.
struct ShardPlan {
  std::string file;
  std::vector<InputSpec> inputs;
  int64_t bytes = 0;  ///< of the inputs
};

/// Which input file goes into which shard: a function of the inputs' names and sizes alone, so that
/// every part, thread and restart agrees. Throws DataError for an input that is missing or a folder
/// without any file to read.
std::vector<ShardPlan> plan_shards(const std::vector<std::filesystem::path>& inputs,
                                   int64_t input_bytes_per_shard);

/// Whether `a` comes before `b` where runs of digits compare as numbers: chunk2 before chunk10.
bool natural_less(std::string_view a, std::string_view b);

}  // namespace gsa::data
