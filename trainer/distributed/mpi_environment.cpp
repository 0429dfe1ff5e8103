#include <mpi.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>

#include "trainer/distributed/communicator.h"
#include "trainer/distributed/mpi_group.h"

namespace gsa {
namespace {

// Set by mpirun (Open MPI) and by launchers that speak PMIx or PMI, such as Slurm's srun.
constexpr std::array launcher_variables{"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"};

bool started_by_launcher() {
  for (const char* name : launcher_variables) {
    if (std::getenv(name) != nullptr) {
      return true;
    }
  }
  return false;
}

}  // namespace

MpiEnvironment::MpiEnvironment(int& argc, char**& argv) {
  // Without a launcher there is nobody to talk to: MPI would start a daemon of its own, which takes
  // half a second and fails on a machine without a network.
  if (!started_by_launcher()) {
    return;
  }
  // Containers forbid copies between processes, which Open MPI finds out only when they fail.
  setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", /*overwrite=*/0);
  int provided = 0;
  check_mpi(MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
  check_mpi(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &size_), "MPI_Comm_size");
  with_mpi_ = true;
}

MpiEnvironment::~MpiEnvironment() {
  // Finalizing waits for all ranks: while an error unwinds, they may be waiting for this one. A
  // process that ends without it makes mpirun end the others.
  if (with_mpi_ && std::uncaught_exceptions() == 0) {
    MPI_Finalize();
  }
}

void MpiEnvironment::abort(int exit_code) {
  std::fflush(nullptr);
  if (with_mpi_) {
    MPI_Abort(MPI_COMM_WORLD, exit_code);
  }
  std::_Exit(exit_code);
}

std::string mpi_version() {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> text{};
  int length = 0;
  MPI_Get_library_version(text.data(), &length);
  // The name and number; what follows is where and by whom it was built.
  const std::string whole(text.data());
  return whole.substr(0, whole.find_first_of(",\n"));
}

}  // namespace gsa
