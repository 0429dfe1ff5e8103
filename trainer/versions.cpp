#include "trainer/versions.h"

#include "trainer/distributed/communicator.h"

namespace gsa {

std::map<std::string, std::string> library_versions() {
  return {{"gsa", GSA_VERSION}, {"compiler", __VERSION__}, {"mpi", mpi_version()}};
}

}  // namespace gsa
