// Ranks that may share a GPU, which NCCL refuses: what several GPUs do, on a machine with one.
#pragma once

#include <memory>

#include "trainer/distributed/communicator.h"

namespace gsa::testing {

// Collective; throws CommunicationError where ranks cannot copy. Makes the rank's GPU the calling
// thread's. Memory that is open is reduced and gathered by PeerCopies, and nothing else can be;
// all_reduce goes through the host.
std::unique_ptr<Communicator> shared_gpu_ranks();

}  // namespace gsa::testing
