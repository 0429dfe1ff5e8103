// Clusters: blocks that run side by side and read each other's shared memory.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace gsa::kernels::cuda {

__device__ inline int cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;\n" : "=r"(rank));
  return int(rank);
}

// The barrier of all threads of the cluster in two halves: what was written before `arrive` is seen
// after `wait`.
__device__ inline void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.release.aligned;\n" ::: "memory");
}
// Of nothing but barriers in shared memory (publish_barriers): without the fence of the whole GPU
// that an order of memory costs.
__device__ inline void cluster_arrive_relaxed() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;\n" ::: "memory");
}
__device__ inline void cluster_wait() {
  asm volatile("barrier.cluster.wait.acquire.aligned;\n" ::: "memory");
}

// The address of `pointer`'s counterpart in the shared memory of another block of the cluster.
__device__ inline uint32_t shared_address_in(const void* pointer, int rank) {
  const auto own = static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
  uint32_t there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;\n" : "=r"(there) : "r"(own), "r"(rank));
  return there;
}
__device__ inline float load_shared_in(uint32_t address) {
  float value;
  asm volatile("ld.shared::cluster.f32 %0, [%1];\n" : "=f"(value) : "r"(address));
  return value;
}
__device__ inline float4 load_shared4_in(uint32_t address) {
  float4 value;
  asm volatile("ld.shared::cluster.v4.f32 {%0,%1,%2,%3}, [%4];\n"
               : "=f"(value.x), "=f"(value.y), "=f"(value.z), "=f"(value.w)
               : "r"(address));
  return value;
}

}  // namespace gsa::kernels::cuda
