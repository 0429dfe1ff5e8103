// For tests that run under mpirun: link gsa_mpi_test, which brings their main function. Rank 0
// prints the results, the others only what failed on them; the exit code says whether any rank
// failed.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "trainer/distributed/communicator.h"

namespace gsa::testing {

// Longer than any wait of a test on a busy machine, shorter than the patience of a reader.
inline constexpr double test_timeout_seconds = 120;

// The program's MPI.
MpiEnvironment& mpi();

// What a rank brings to a sum: numbers of (-1, 1), others in every round.
std::vector<float> contribution(int rank, int64_t elements, int round = 0);
// The sum of all ranks' contributions, in the order of ranks.
std::vector<float> sum_of_contributions(int ranks, int64_t elements, int round = 0);
Tensor host_tensor(std::vector<float>& values);

// Whether this, of PeerCopies, means GPUs that lack a link; every rank has the same reason.
bool gpus_are_apart(const std::string& reason);

// All ranks, on the host; collective.
std::unique_ptr<Communicator> all_ranks(double timeout_seconds = test_timeout_seconds);

}  // namespace gsa::testing
