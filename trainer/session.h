// What a run computes with: its device, precision and communicator, chosen from the configuration
// and from what the build and the machine have.
#pragma once

#include <memory>

#include "trainer/config/config.h"
#include "trainer/distributed/communicator.h"

namespace gsa {

struct Session {
  Device device = Device::cpu;
  int ordinal = 0;  // GPU of this rank
  DType dtype = DType::float32;
  std::unique_ptr<Communicator> communicator;

  bool is_root() const { return communicator->rank() == 0; }
};

// cpu, or cuda where the build and the machine have it; throws ConfigError if it was asked for and
// is not there, or the precision is not the device's.
Device choose_device(const DistributedConfig& config);
DType choose_dtype(const PrecisionConfig& config, Device device);

// Opens the session of this rank; collective. Sets the number of CPU threads: what the
// configuration says, or an equal share of the cores that this process may use.
Session open_session(const Config& config, MpiEnvironment& mpi);

// A session of one rank without MPI, for commands that read.
Session open_single_session(const DistributedConfig& distributed, const PrecisionConfig& precision);

}  // namespace gsa
