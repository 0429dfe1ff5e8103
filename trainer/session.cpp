#include "trainer/session.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>

#include "trainer/config/error.h"

namespace gsa {
namespace {

int usable_cores() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  return sched_getaffinity(0, sizeof(mask), &mask) == 0 ? CPU_COUNT(&mask) : 1;
}

void set_threads(const DistributedConfig& config, int local_ranks) {
  const auto online = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  const int share = std::max(1, online / local_ranks);
  set_cpu_threads(config.threads > 0 ? static_cast<int>(config.threads)
                                     : std::min(share, usable_cores()));
}

}  // namespace

Device choose_device(const DistributedConfig& config) {
  if (config.device == "cpu") {
    return Device::cpu;
  }
  const bool there = cuda_device_count() > 0;
  if (config.device == "cuda" && !there) {
    throw ConfigError(
        "distributed.device is cuda, but no GPU can be used: the build has no CUDA, or the machine "
        "no GPU or driver; check nvidia-smi, or set distributed.device=cpu");
  }
  return there ? Device::cuda : Device::cpu;
}

DType choose_dtype(const PrecisionConfig& config, Device device) {
  if (config.compute == "bf16" && device == Device::cpu) {
    throw ConfigError(
        "precision.compute is bf16, which the CPU does not compute in: set it to "
        "float32 or auto");
  }
  if (config.compute == "float32") {
    return DType::float32;
  }
  return device == Device::cuda ? DType::bfloat16 : DType::float32;
}

Session open_session(const Config& config, MpiEnvironment& mpi) {
  Session session;
  session.device = choose_device(config.distributed);
  session.dtype = choose_dtype(config.precision, session.device);
  session.communicator = make_communicator(mpi, session.device, config.distributed.timeout);
  session.ordinal = session.communicator->local_rank();
  use_device(session.device, session.ordinal);
  set_threads(config.distributed, session.communicator->local_size());
  return session;
}

Session open_single_session(const DistributedConfig& distributed,
                            const PrecisionConfig& precision) {
  Session session;
  session.device = choose_device(distributed);
  session.dtype = choose_dtype(precision, session.device);
  session.communicator = make_single_communicator();
  use_device(session.device, 0);
  set_threads(distributed, 1);
  return session;
}

}  // namespace gsa
