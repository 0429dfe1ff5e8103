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

// Launches a kernel of such a chain.
template <typename Args>
void launch_dependent(void (*kernel)(Args), const DependentLaunch& launch, const Args& args,
                      const Stream& stream, const char* what) {
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
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = launch.cluster;
  attributes[1].val.clusterDim.y = 1;
  attributes[1].val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(launch.blocks);
  config.blockDim = dim3(launch.threads);
  config.dynamicSmemBytes = launch.shared_bytes;
  config.stream = gsa::cuda::native(stream);
  config.attrs = attributes;
  config.numAttrs = launch.cluster > 1 ? 2 : 1;
  gsa::cuda::check(cudaLaunchKernelEx(&config, kernel, args), what);
}

}  // namespace gsa::kernels::cuda
