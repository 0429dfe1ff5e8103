#include "kernels/captured_work.h"

#include "kernels/cuda/runtime.h"

namespace gsa {

CapturedWork::CapturedWork(Stream& stream, std::function<void()> work)
    : stream_(stream), work_(std::move(work)) {
  if (stream_.native() == nullptr) {
    return;
  }
  cuda::begin_capture(stream_.native());
  try {
    work_();
  } catch (...) {
    cuda::abandon_capture(stream_.native());
    throw;
  }
  graph_ = cuda::end_capture(stream_.native());
}

CapturedWork::~CapturedWork() {
  if (graph_ != nullptr) {
    cuda::destroy_graph(graph_);
  }
}

void CapturedWork::run() {
  if (graph_ != nullptr) {
    cuda::launch_graph(graph_, stream_.native());
  } else {
    work_();
  }
}

}  // namespace gsa
