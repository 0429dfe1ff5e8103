#include "trainer/distributed/nccl_watchdog.h"

#include <cstdio>
#include <cstdlib>
#include <utility>

namespace gsa {
namespace {

using Clock = std::chrono::steady_clock;

// Between two looks.
constexpr std::chrono::milliseconds period{100};
// How long the host may take to leave NCCL before it is aborted all the same, and to come back from
// a wait after that.
constexpr std::chrono::seconds patience_with_calls{5};
constexpr std::chrono::seconds patience_with_host{60};
constexpr int exit_failed = 4;

std::string seconds_text(double seconds) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.0f s", seconds);
  return text;
}

void say(int rank, const std::string& what) {
  std::fprintf(stderr, "rank %d: %s\n", rank, what.c_str());
}

}  // namespace

NcclWatchdog::NcclWatchdog(ncclComm_t comm, int rank, int device,
                           std::chrono::duration<double> timeout,
                           std::function<void()> stop_waiting)
    : comm_(comm),
      rank_(rank),
      device_(device),
      timeout_(timeout),
      stop_waiting_(std::move(stop_waiting)),
      thread_([this] { run(); }) {}

NcclWatchdog::~NcclWatchdog() {
  stopping_ = true;
  thread_.join();
  for (cudaEvent_t event : free_events_) {
    cudaEventDestroy(event);
  }
}

cudaEvent_t NcclWatchdog::take_event() {
  {
    const std::lock_guard lock(mutex_);
    if (!free_events_.empty()) {
      cudaEvent_t event = free_events_.back();
      free_events_.pop_back();
      return event;
    }
  }
  cudaEvent_t event = nullptr;
  return cudaEventCreateWithFlags(&event, cudaEventDisableTiming) == cudaSuccess ? event : nullptr;
}

void NcclWatchdog::queued(const char* name, cudaStream_t stream) {
  cudaEvent_t event = take_event();
  if (event == nullptr || cudaEventRecord(event, stream) != cudaSuccess) {
    return;  // a device in trouble says so at the next call
  }
  const auto is_done = [this, event] {
    if (cudaEventQuery(event) == cudaErrorNotReady) {
      return false;
    }
    const std::lock_guard lock(mutex_);
    free_events_.push_back(event);
    return true;
  };
  watch_.queued(name, is_done, Clock::now());
}

std::string NcclWatchdog::failure() {
  const std::lock_guard lock(mutex_);
  if (!failure_.empty()) {
    taken_over_ = true;
  }
  return failure_;
}

std::string NcclWatchdog::problem() {
  ncclResult_t state = ncclSuccess;
  if (ncclCommGetAsyncError(comm_, &state) == ncclSuccess && state != ncclSuccess &&
      state != ncclInProgress) {
    return std::string("NCCL says: ") + ncclGetErrorString(state) + " (" + ncclGetLastError(comm_) +
           "); set NCCL_DEBUG=WARN to see more";
  }
  const auto waiting = watch_.look(Clock::now());
  if (waiting && waiting->seconds > timeout_.count()) {
    return waiting->name + " (collective " + std::to_string(waiting->number) + ") on rank " +
           std::to_string(rank_) + ": waited " + seconds_text(waiting->seconds) +
           " for other ranks; look for what stopped them, or raise distributed.timeout";
  }
  return "";
}

void NcclWatchdog::run() {
  cudaSetDevice(device_);
  // Looking at events must not end a capture of a graph on another thread.
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  cudaThreadExchangeStreamCaptureMode(&mode);
  while (!stopping_) {
    const std::string what = problem();
    if (!what.empty()) {
      fail(what);
      return;
    }
    std::this_thread::sleep_for(period);
  }
}

void NcclWatchdog::fail(const std::string& what) {
  say(rank_, what);
  {
    const std::lock_guard lock(mutex_);
    failure_ = what;
  }
  {
    const std::unique_lock lock(in_use_, patience_with_calls);
    aborted_ = true;
    stop_waiting_();
    ncclCommAbort(comm_);
  }
  const auto deadline = Clock::now() + patience_with_host;
  while (!taken_over_ && !stopping_) {
    if (Clock::now() >= deadline) {
      say(rank_, "the GPU does not come back from that; ending this process");
      std::fflush(nullptr);
      std::_Exit(exit_failed);
    }
    std::this_thread::sleep_for(period);
  }
}

}  // namespace gsa
