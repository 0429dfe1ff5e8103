// What a rank's shard of the optimizer's state consists of.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gsa {

// A contiguous part of one parameter in this rank's shard: elements [begin, end) of the parameter
// at `offset` of the shard.
struct ShardRange {
  size_t parameter = 0;
  int64_t begin = 0;
  int64_t end = 0;
  int64_t offset = 0;
};

}  // namespace gsa
