// Every CUDA call and every launch is checked with these.
#pragma once

#include <cuda_runtime.h>

#include <string>

#include "kernels/device.h"

namespace gsa::cuda {

// Throws DeviceError "WHAT: CUDA's words (its name)" if the call failed.
inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) {
    throw DeviceError(std::string(what) + ": " + cudaGetErrorString(status) + " (" +
                      cudaGetErrorName(status) + ")");
  }
}

// Throws DeviceError if the launch before it was refused. Says nothing of what the kernel does
// later: such an error comes out of the next call that waits for the stream.
inline void check_launch(const char* what) {
  check(cudaGetLastError(), what);
}

// The stream's own handle.
inline cudaStream_t native(const Stream& stream) {
  return static_cast<cudaStream_t>(stream.native());
}

}  // namespace gsa::cuda
