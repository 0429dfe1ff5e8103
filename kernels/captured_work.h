// Work that is queued many times with the same arguments: recorded once, then run at the cost of
// one launch. On CUDA it becomes a graph; on the CPU the function is simply called again.
#pragma once

#include <functional>

#include "kernels/device.h"

namespace gsa {

class CapturedWork {
 public:
  // `work` queues on `stream` and on nothing else, allocates nothing and waits for nothing; the
  // memory it names must stay where it is for as long as this object lives. Runs nothing on CUDA.
  CapturedWork(Stream& stream, std::function<void()> work);
  ~CapturedWork();
  CapturedWork(const CapturedWork&) = delete;
  CapturedWork& operator=(const CapturedWork&) = delete;

  // Queues the work on the stream that it was recorded on.
  void run();

 private:
  Stream& stream_;
  std::function<void()> work_;  // on the CPU
  void* graph_ = nullptr;       // on CUDA: cudaGraphExec_t
};

}  // namespace gsa
