#include "trainer/distributed/nccl_communicator.h"

namespace gsa {

std::unique_ptr<Communicator> make_nccl_communicator(double /*timeout_seconds*/) {
  throw CommunicationError(
      "this build has no NCCL: configure with -DGSA_CUDA=ON where NCCL is installed, run one rank, "
      "or run with distributed.device=cpu");
}

}  // namespace gsa
