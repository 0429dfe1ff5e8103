#pragma once

#include <stdexcept>

namespace gsa::data {

/// The data are at fault: a folder, file, shard, line or token is missing, torn or of another kind.
/// The message names the thing, the place and the remedy. The program ends with code 3.
class DataError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// An output could not be written (full disk, no permission). Nothing half-written keeps its final
/// name, so the same command can be given again once the cause is gone. The program ends with
/// code 4.
class OutputError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace gsa::data
