// A temporary folder for all ranks of a test under mpirun.
#pragma once

#include <filesystem>

#include "tests/trainer/checkpoint/checkpoint_fixture.h"
#include "trainer/distributed/communicator.h"

namespace gsa::testing {

// Rank 0's folder, on every rank; collective. Goes with rank 0's object, after all have come to the
// end of theirs.
class SharedFolder {
 public:
  explicit SharedFolder(Communicator& ranks)
      : ranks_(ranks), path_(ranks.broadcast_text(own_.path().string())) {}
  ~SharedFolder() { ranks_.barrier(); }
  SharedFolder(const SharedFolder&) = delete;
  SharedFolder& operator=(const SharedFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  Communicator& ranks_;
  TemporaryFolder own_;
  std::filesystem::path path_;
};

}  // namespace gsa::testing
