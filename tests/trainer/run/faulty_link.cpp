// A library to be preloaded into ranks: a link from rank 0 to rank 1 that changes a bit in each
// message of weights, from a certain one on. It stands between the program and MPI's send, which
// MPI's profiling interface is for.
#include <mpi.h>

#include <cstdlib>
#include <cstring>

namespace {

constexpr int all_gather_tag = 1;  // Collective::all_gather of trainer/distributed/mpi_group.h
constexpr int sender = 0;
constexpr int receiver = 1;
constexpr int sound_messages = 40;  // some steps' worth

}  // namespace

extern "C" int MPI_Isend(const void* data, int count, MPI_Datatype type, int peer, int tag,
                         MPI_Comm comm, MPI_Request* request) {
  static int messages = 0;
  int rank = 0;
  PMPI_Comm_rank(comm, &rank);
  if (rank == sender && peer == receiver && tag == all_gather_tag && count > 0 &&
      ++messages > sound_messages) {
    // Never freed: nobody tells when it has been sent.
    auto* changed = static_cast<char*>(std::malloc(static_cast<size_t>(count)));
    std::memcpy(changed, data, static_cast<size_t>(count));
    changed[0] ^= 1;
    data = changed;
  }
  return PMPI_Isend(data, count, type, peer, tag, comm, request);
}
