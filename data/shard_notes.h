#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/problems.h"

namespace gsa::data {

/// What a shard says of its making, as JSON at its end: which input files it holds, in order, and
/// what was wrong with them.
///
///     {"inputs": [{"name": "chunk1/a.jsonl.zst", "bytes": 123}],
///      "problems": {"counts": {"not_json": 1},
///                   "named": [{"kind": "not_json", "file": "chunk1/a.jsonl.zst", "line": 7,
///                              "detail": "..."}]}}
struct ShardNotes {
  struct Input {
    std::string name;   ///< relative to the input folder
    int64_t bytes = 0;  ///< on the disk
    friend bool operator==(const Input&, const Input&) = default;
  };
  std::vector<Input> inputs;
  ProblemList problems;
};

std::string to_json(const ShardNotes& notes);

/// Throws DataError when `json` is not of this form. `place` names the shard in the message.
ShardNotes parse_notes(std::string_view json, const std::string& place);

}  // namespace gsa::data
