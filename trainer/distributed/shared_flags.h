// Numbers in host memory that all ranks of a host have, and their GPUs write and wait for in the
// order of a stream. For this folder only.
#pragma once

#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "trainer/distributed/mpi_group.h"

namespace gsa {

class SharedFlags {
 public:
  // Collective over a group on one host: `each` numbers for every pair of ranks, all zero. Throws
  // CommunicationError on every rank if one of them cannot have them.
  SharedFlags(MpiGroup& group, int each);

  // Queues: the number that `reader` waits for becomes `value` when all before it is done and can
  // be seen by other GPUs.
  void write(cudaStream_t stream, int reader, int kind, uint32_t value) const;
  // Queues: what follows waits until `writer` has written `value` or a later one.
  void wait(cudaStream_t stream, int writer, int kind, uint32_t value) const;
  // From the host: whatever this rank's GPU waits for now has come.
  void release(uint32_t value) const;

 private:
  using Flag = std::atomic<uint32_t>;
  static constexpr size_t flag_bytes = 64;  // none shares a line with another
  // Shared memory that CUDA knows.
  struct Unmap {
    size_t bytes;
    void operator()(std::byte* memory) const;
  };
  void map(const std::string& name, bool create);
  size_t place(int reader, int writer, int kind) const {
    return (static_cast<size_t>(reader * size_ + writer) * static_cast<size_t>(each_) +
            static_cast<size_t>(kind)) *
           flag_bytes;
  }

  int rank_;
  int size_;
  int each_;
  size_t bytes_;
  std::unique_ptr<std::byte, Unmap> memory_;
  std::byte* on_device_ = nullptr;
  PFN_cuStreamWriteValue32_v11070 write_ = nullptr;
  PFN_cuStreamWaitValue32_v11070 wait_ = nullptr;
};

// Throws CommunicationError "WHAT: CUDA's text" unless `status` is cudaSuccess.
void check_cuda(cudaError_t status, const char* what);

// Throws CommunicationError with the first that is not empty: of all ranks, on every rank.
void require_all_well(const std::vector<std::string>& errors);

}  // namespace gsa
