// The loss on held-out text, over all of it and by source.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "data/loader.h"
#include "trainer/device_batch.h"
#include "trainer/metrics/metrics.h"
#include "trainer/model/engine.h"
#include "trainer/session.h"

namespace gsa {

struct ValidationOptions {
  std::string folder;
  int64_t sequence_length = 2048;
  int64_t micro_batch = 8;
  int64_t tokens = 0;  // 0: the whole split
  bool reset_state_at_documents = false;
};

class Validation {
 public:
  // Opens the split; throws DataError.
  Validation(const ValidationOptions& options, Session& session, Engine& engine);

  // Reads the split's first `tokens` tokens in order, shared out over the ranks; collective. The
  // same windows are read whatever the number of ranks.
  ValidationMetrics run();

 private:
  std::unique_ptr<data::Loader> open() const;
  // Adds the losses of the batch's first `count` tokens.
  void add(const data::Batch& batch, size_t count, std::vector<double>& sums);

  ValidationOptions options_;
  Session& session_;
  Engine& engine_;
  DeviceBatch batch_;
  Buffer loss_memory_;
  std::vector<float> losses_;
};

}  // namespace gsa
