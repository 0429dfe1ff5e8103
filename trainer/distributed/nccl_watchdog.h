// A thread that notices what NCCL does not tell: a collective that waits for a rank which never
// comes, and errors that happen behind the host's back. For this folder only.
//
// It aborts NCCL then, which ends the collectives on the GPU, so that a host that waits for them
// (a stream, an event) goes on; `failure` says what happened to whoever asks next. Should the host
// not come back even so, the process leaves with exit code 4.
#pragma once

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "trainer/distributed/collective_watch.h"

namespace gsa {

class NcclWatchdog {
 public:
  // Watches `comm`, whose GPU is `device`. A collective may be the next one for `timeout`: longer
  // than the work of a step that is queued before it. `stop_waiting` ends those that are not
  // NCCL's.
  NcclWatchdog(ncclComm_t comm, int rank, int device, std::chrono::duration<double> timeout,
               std::function<void()> stop_waiting);
  // Ends the thread; the communicator stays as it is.
  ~NcclWatchdog();
  NcclWatchdog(const NcclWatchdog&) = delete;
  NcclWatchdog& operator=(const NcclWatchdog&) = delete;

  // Held while the host is inside NCCL, so that the abort does not pull it away from under a call.
  std::timed_mutex& in_use() { return in_use_; }

  // A collective has been queued on this stream.
  void queued(const char* name, cudaStream_t stream);

  // What happened, or empty. From the first time that it is not, the caller has taken over: it ends
  // the run itself.
  std::string failure();
  bool has_aborted() const { return aborted_; }
  std::string account() const { return watch_.account(); }

 private:
  void run();
  std::string problem();
  void fail(const std::string& what);
  cudaEvent_t take_event();

  ncclComm_t comm_;
  int rank_;
  int device_;
  std::chrono::duration<double> timeout_;
  std::function<void()> stop_waiting_;
  CollectiveWatch watch_;
  std::timed_mutex in_use_;
  std::mutex mutex_;  // of the two below
  std::vector<cudaEvent_t> free_events_;
  std::string failure_;
  std::atomic<bool> aborted_ = false;
  std::atomic<bool> taken_over_ = false;
  std::atomic<bool> stopping_ = false;
  std::jthread thread_;  // last: it uses all of them
};

}  // namespace gsa
