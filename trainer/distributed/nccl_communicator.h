// Communication over NCCL between tensors on GPUs. For this folder only. no_nccl.cpp defines the
// same function for a build without NCCL.
#pragma once

#include <memory>

#include "trainer/distributed/communicator.h"

namespace gsa {

// The ranks, as a Communicator for the calling threads' current GPUs; host collectives go over MPI.
// Collective. Throws CommunicationError on every rank if NCCL cannot be set up in time.
std::unique_ptr<Communicator> make_nccl_communicator(double timeout_seconds);

}  // namespace gsa
