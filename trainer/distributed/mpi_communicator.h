// Communication over MPI between tensors on the host. For this folder only.
#pragma once

#include <memory>

#include "trainer/distributed/communicator.h"

namespace gsa {

// The ranks, as a Communicator for the host. Collective.
std::unique_ptr<Communicator> make_mpi_communicator(double timeout_seconds);

}  // namespace gsa
