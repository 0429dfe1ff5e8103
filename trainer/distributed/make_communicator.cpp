#include <unistd.h>

#include <array>
#include <climits>
#include <string>

#include "trainer/distributed/communicator.h"
#include "trainer/distributed/mpi_communicator.h"
#include "trainer/distributed/mpi_group.h"
#include "trainer/distributed/nccl_communicator.h"

namespace gsa {
namespace {

std::string host_name() {
  std::array<char, HOST_NAME_MAX + 1> name{};
  gethostname(name.data(), name.size() - 1);
  return name.data();
}

// Empty if each rank of this host can have its own GPU.
std::string complaint_about_gpus(int local_size) {
  const int gpus = cuda_device_count();
  if (local_size <= gpus) {
    return "";
  }
  return "host " + host_name() + " has " + std::to_string(local_size) +
         (local_size == 1 ? " rank" : " ranks") + " but " + std::to_string(gpus) +
         (gpus == 1 ? " usable GPU" : " usable GPUs") +
         ": start at most one rank a GPU, or run with distributed.device=cpu";
}

// Throws the first complaint of any rank on every rank.
void require_gpus(const std::vector<std::string>& complaints) {
  for (const std::string& complaint : complaints) {
    if (!complaint.empty()) {
      throw CommunicationError(complaint);
    }
  }
}

}  // namespace

std::unique_ptr<Communicator> make_communicator(MpiEnvironment& mpi, Device device,
                                                double timeout_seconds) {
  if (mpi.size() == 1) {
    if (device == Device::cuda) {
      require_gpus({complaint_about_gpus(1)});
      use_device(device, 0);
    }
    return make_single_communicator();
  }
  if (device == Device::cpu) {
    return make_mpi_communicator(timeout_seconds);
  }
  {
    MpiGroup group(timeout_seconds);
    require_gpus(group.all_gather_text(complaint_about_gpus(group.local_size())));
    use_device(device, group.local_rank());
  }
  return make_nccl_communicator(timeout_seconds);
}

}  // namespace gsa
