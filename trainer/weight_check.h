// Whether all ranks hold the same weights (`distributed.check_weights_every`).
//
// Every rank sums up, on its device, the weights that each rank is the owner of, and the sums are
// compared over all ranks. Of each owner's part most ranks are right, or the owner where as many
// say one thing as another; whoever has another sum has drifted: a fault of memory or of the
// network that nothing else would notice.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "trainer/distributed/communicator.h"
#include "trainer/model/parameters.h"

namespace gsa {

class WeightCheck {
 public:
  WeightCheck(const ParameterStore& parameters, Communicator& communicator);

  // Compares the weights as the stream's work has left them; collective, and waits for the stream.
  // Throws the same std::runtime_error on every rank, with the ranks that drifted and the step.
  void run(Stream& stream, int64_t step);

 private:
  const ParameterStore& parameters_;
  Communicator& communicator_;
  Buffer sums_memory_;
  Buffer host_memory_;
};

// The ranks that drifted, in order. `sums[r]` is what rank r found: a sum of each owner's part.
std::vector<int> drifted_ranks(const std::vector<std::vector<uint64_t>>& sums);

}  // namespace gsa
