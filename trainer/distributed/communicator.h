// The ranks of a run and what they do together.
//
// Collectives on tensors are queued on a stream and run in its order: over NCCL when the tensors
// lie on GPUs, over MPI (at once) when they lie on the host. Every rank calls them in the same
// order with the same sizes. Sums are taken in an order that depends on nothing but the number of
// ranks: the same run gives the same bits. Host collectives are for small things and block.
//
// A rank that fails ends the run: see `abort`.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/device.h"

namespace gsa {

// An error of communication: which operation, on which rank, what the library answered.
class CommunicationError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Ranks did not come within distributed.timeout: names them and the collective. Each rank has its
// own to tell.
class LostRanksError : public CommunicationError {
 public:
  using CommunicationError::CommunicationError;
};

class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual int local_rank() const = 0;  // among the ranks of this host
  virtual int local_size() const = 0;

  // output[i] = sum over ranks of input[rank() * n + i]; input [n * size()], output [n]; output may
  // be that part of the input. float32 or float64.
  virtual void reduce_scatter(Stream& stream, ConstTensor input, Tensor output) = 0;
  // output = the inputs of all ranks in order; input [n], output [n * size()]; input may be this
  // rank's part of the output. Any dtype.
  virtual void all_gather(Stream& stream, ConstTensor input, Tensor output) = 0;
  // Sums over all ranks in place. float32 or float64.
  virtual void all_reduce(Stream& stream, Tensor tensor) = 0;

  // What makes the collectives on tensors, and if it is not the fastest way why: for people.
  virtual std::string transport() const = 0;
  // Whether ranks can copy to each other's memory, once it is open.
  virtual bool copies_memory() const { return false; }
  // Of a stream for collectives: the sums behind copies are short and are to begin at once.
  Priority priority() const { return copies_memory() ? Priority::high : Priority::normal; }
  // Collective: until `close_memory` other ranks may write to these tensors, which begin a Buffer
  // and have one size on all ranks. Where `copies_memory`, an all_gather into `gathered` and a
  // reduce_scatter for which `arriving` has room are copies then, and take no multiprocessors from
  // the work beside them; elsewhere this does nothing. OpenMemory calls both.
  virtual void open_memory(const Tensor& /*gathered*/, const Tensor& /*arriving*/) {}
  virtual void close_memory() {}

  // Throws CommunicationError if communication has failed behind the host's back (a rank that never
  // came to a collective on the GPUs). To be called after waiting for a stream and before what it
  // computed is believed.
  virtual void require_healthy() {}

  // Host collectives.
  virtual void barrier() = 0;
  // The texts of all ranks, in order, on every rank.
  virtual std::vector<std::string> all_gather_text(const std::string& text) = 0;
  // Rank 0's text on every rank.
  virtual std::string broadcast_text(const std::string& text) = 0;

  // Ends all ranks with this exit code; for a rank that cannot go on while others wait for it.
  [[noreturn]] virtual void abort(int exit_code) = 0;
};

// MPI for as long as it lives: created once, first thing in `main`. A program started without
// mpirun (or another launcher that speaks PMIx or PMI) is one rank, and MPI is left alone. MPI is
// called from the thread that created it and from no other. After a failure, `abort` ends the other
// ranks too; leaving by an exception does not wait for them.
class MpiEnvironment {
 public:
  MpiEnvironment(int& argc, char**& argv);
  ~MpiEnvironment();
  MpiEnvironment(const MpiEnvironment&) = delete;
  MpiEnvironment& operator=(const MpiEnvironment&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  [[noreturn]] void abort(int exit_code);

 private:
  bool with_mpi_ = false;
  int rank_ = 0;
  int size_ = 1;
};

// All ranks of the program; collective. On CUDA, rank r of a host uses the GPU r of that host and
// makes it the calling thread's: throws CommunicationError on every rank if a host has more ranks
// than GPUs. `timeout_seconds` bounds each wait for other ranks (on GPUs: for their joining and
// their host collectives); a LostRanksError then names them. One rank needs neither MPI nor
// NCCL.
std::unique_ptr<Communicator> make_communicator(MpiEnvironment& mpi, Device device,
                                                double timeout_seconds);

// One rank alone, without MPI: tests and tools.
std::unique_ptr<Communicator> make_single_communicator();

// The MPI library and its version, on one line; may be asked at any time.
std::string mpi_version();

}  // namespace gsa
