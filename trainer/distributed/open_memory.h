// A model's memory, open to the other ranks of its host.
#pragma once

#include <cstddef>

#include "trainer/distributed/communicator.h"

namespace gsa {

// Opens `gathered` and room for what arrives of a reduction for as long as it lives
// (Communicator::open_memory); takes no memory where the communicator does not copy.
class OpenMemory {
 public:
  // Collective. `gathered` begins a Buffer; no reduce_scatter leaves more than `part_bytes` on a
  // rank.
  OpenMemory(Communicator& communicator, const Tensor& gathered, size_t part_bytes);
  // Collective, unless an exception is on its way: then the other ranks do not come either.
  ~OpenMemory();
  OpenMemory(const OpenMemory&) = delete;
  OpenMemory& operator=(const OpenMemory&) = delete;

  // Bytes that arrive at a rank: a slot for each of the others, where one begins, and all of them.
  static size_t slot(int sender, int receiver, size_t part_bytes);
  static size_t arriving_bytes(size_t part_bytes, int ranks);

 private:
  Communicator& communicator_;
  Buffer arriving_;
};

}  // namespace gsa
