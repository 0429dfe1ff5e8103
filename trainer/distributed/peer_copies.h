// Collectives of the ranks of one host as copies between the memories of their GPUs. Copy engines
// make them, which leaves the multiprocessors to the products beside them: a collective's own
// kernel takes some from a product that has a tile for each. For this folder only.
//
// A rank puts what others need into their memory. Collective number s of a rank, on its stream:
//
//   tell all others that they may write to this rank's memory               (its `ready` = s)
//   for each other rank, the next one first: wait until it may be written to, copy, and tell it
//   that all has come                                                        (its `arrived` = s)
//   wait until all has come from the others; a reduction then adds it up, in the order of ranks
//
// As ranks call the same collectives in the same order, numbers agree without being sent. They are
// 32 bits wide and compared around their end.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "kernels/device.h"
#include "trainer/distributed/mpi_group.h"
#include "trainer/distributed/shared_flags.h"

namespace gsa {

class PeerCopies {
 public:
  // The GPU of a rank of one host. Ranks of a test may share one.
  static int device_of(int rank);
  // Collective; the calling thread's GPU is that of its rank. Null on every rank where some cannot
  // reach the memory of others; `why` tells.
  static std::unique_ptr<PeerCopies> connect(MpiGroup& group, std::string& why);
  PeerCopies(const PeerCopies&) = delete;
  PeerCopies& operator=(const PeerCopies&) = delete;

  // Collective: from now to `close` others write to these tensors, which begin an allocation and
  // are of one size on all ranks (Communicator::open_memory).
  void open(MpiGroup& group, const Tensor& gathered, const Tensor& arriving);
  void close(MpiGroup& group);

  // Whether these collectives can be made so, as tensors lie; the answer is the same on all ranks.
  bool can_gather(const Tensor& output) const;
  bool can_reduce(const Tensor& output) const;
  void all_gather(Stream& stream, const ConstTensor& input, const Tensor& output);
  void reduce_scatter(Stream& stream, const ConstTensor& input, const Tensor& output);

  // After a failure, from any thread: from now on this rank's GPU waits for nobody, and what it
  // holds is not to be believed.
  void stop_waiting();

 private:
  enum Flag : int { ready, arrived, flags };
  struct CloseMemory {
    void operator()(std::byte* memory) const;
  };
  using OpenedMemory = std::unique_ptr<std::byte, CloseMemory>;
  struct Opened {  // of another rank
    OpenedMemory gathered;
    OpenedMemory arriving;
  };

  explicit PeerCopies(MpiGroup& group);
  void try_out(MpiGroup& group);
  void open_peers(const std::vector<std::string>& handles);
  static OpenedMemory open_handle(const std::string& handle);
  // Copies `source(peer)`, `bytes` of it, to `target(peer)` for all other ranks.
  template <typename Source, typename Target>
  void exchange(const Stream& stream, size_t bytes, const Source& source, const Target& target);
  void begin(Stream& stream);

  int rank_;
  int size_;
  SharedFlags shared_;
  Tensor gathered_;
  Tensor arriving_;
  std::vector<Opened> peers_;  // by rank
  std::atomic<uint32_t> number_ = 0;
  std::atomic<bool> stopped_ = false;
  Event done_{Device::cuda};  // behind the collective before
  std::jthread releasing_;    // once stopped
};

}  // namespace gsa
