// Kernels that start before the one in front of them on the stream has ended, so that a chain of
// short ones leaves no gaps: each begins by loading what no kernel of the chain writes (weights,
// states of the step before), and waits before it touches anything else.
//
//   let_next_start();        // first of all: the next kernel may take its place beside this one
//   ... loads of weights ...
//   wait_for_previous();     // in every thread: all earlier kernels are complete
//
// A chain begins behind an ordinary launch, and every kernel of it waits; so what was written
// before the chain may be read at once, and what the chain writes only after waiting.
#pragma once

#include "kernels/cuda/check.h"

namespace gsa::kernels::cuda {

__device__ inline void let_next_start() {
  asm volatile("griddepcontrol.launch_dependents;\n" ::: "memory");
}

__device__ inline void wait_for_previous() {
  asm volatile("griddepcontrol.wait;\n" ::: "memory");
}

struct DependentLaunch {
  unsigned blocks = 1;
  unsigned threads = 1;
  unsigned cluster = 1;  // blocks that share their memory
  size_t shared_bytes = 0;
  // Kernels run side by side only where they divide a multiprocessor's memory in the same way: most
  // for shared memory, or (`cached`) most for the L1 cache.
  bool cached = false;
};

// The same in CUDA's words; the kernel is told how much shared memory it gets.
class LaunchConfig {
 public:
  template <typename Args>
  LaunchConfig(void (*kernel)(Args), const DependentLaunch& launch, const char* what) {
    gsa::cuda::check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                          launch.cached ? cudaSharedmemCarveoutDefault
                                                        : cudaSharedmemCarveoutMaxShared),
                     what);
    constexpr size_t granted_bytes = size_t{48} << 10;
    if (launch.shared_bytes > granted_bytes) {
      gsa::cuda::check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            int(launch.shared_bytes)),
                       what);
    }
    attributes_[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes_[0].val.programmaticStreamSerializationAllowed = 1;
    attributes_[1].id = cudaLaunchAttributeClusterDimension;
    attributes_[1].val.clusterDim.x = launch.cluster;
    attributes_[1].val.clusterDim.y = 1;
    attributes_[1].val.clusterDim.z = 1;
    config_.gridDim = dim3(launch.blocks);
    config_.blockDim = dim3(launch.threads);
    config_.dynamicSmemBytes = launch.shared_bytes;
    config_.attrs = attributes_;
    config_.numAttrs = launch.cluster > 1 ? 2 : 1;
  }
  LaunchConfig(const LaunchConfig&) = delete;
  LaunchConfig& operator=(const LaunchConfig&) = delete;

  cudaLaunchConfig_t& native() { return config_; }

 private:
  cudaLaunchAttribute attributes_[2] = {};
  cudaLaunchConfig_t config_ = {};
};

// Launches a kernel of such a chain.
template <typename Args>
void launch_dependent(void (*kernel)(Args), const DependentLaunch& launch, const Args& args,
                      const Stream& stream, const char* what) {
  LaunchConfig config(kernel, launch, what);
  config.native().stream = gsa::cuda::native(stream);
  gsa::cuda::check(cudaLaunchKernelEx(&config.native(), kernel, args), what);
}

// How many of its clusters run at once on a GPU that does nothing else.
template <typename Args>
int clusters_at_once(void (*kernel)(Args), const DependentLaunch& launch, const char* what) {
  LaunchConfig config(kernel, launch, what);
  // Of the attributes the cluster's size alone: the last one.
  config.native().attrs += 1;
  config.native().numAttrs = 1;
  int clusters = 0;
  gsa::cuda::check(cudaOccupancyMaxActiveClusters(&clusters, kernel, &config.native()), what);
  return clusters;
}

}  // namespace gsa::kernels::cuda
