// The forward pass after the gates: states at the chunks' starts, and o.
//
// Up to 64 slots it is one kernel of two kinds of blocks that take their work in order: first the
// walks of the scan (gsa_scan_walk.h), 128 dimensions each, then the chunks' read-outs
// (gsa_forward_read.h), all sequences' first chunks before their second ones. A read-out waits
// until its chunk's states have been counted as stored; walks wait for nobody and have all begun
// before the first read-out is handed out, so it always ends. What a walk has just read and written
// (k, v, states) a read-out finds in the L2 cache: at B8 T2048 H4 K=V=512 M64 memory gives 201 MB
// of q, k, v and takes 134 MB of states, 67 of o, 17 of u, instead of 620 MB by two kernels. 256
// walks and 1,024 read-outs, 72 KB of shared memory, 3 blocks a multiprocessor.
//
// With more slots, scan and read-out are kernels by themselves; and with grouped heads, where a
// read-out takes two query heads of a group side by side: what they share (gate, k, v, states)
// comes to the multiprocessor once for both.
#include <algorithm>

#include "kernels/cuda/gsa_forward_read.h"
#include "kernels/cuda/gsa_scan_walk.h"

namespace gsa::kernels::cuda {
namespace {

using namespace forward_chunks;
using namespace scans;

constexpr int fused_slots = 64;
using WalkTiles = ScanTiles<fused_slots, 2, 2>;
using ReadTiles = ForwardTiles<fused_slots, 1>;
constexpr int fused_bytes = std::max(WalkTiles::memory_bytes, ReadTiles::memory_bytes);
constexpr int fused_blocks = 3;  // a multiprocessor
static_assert(WalkTiles::threads == ReadTiles::threads);

struct ForwardArgs {
  GsaScanArgs scan;
  GsaReadArgs read;
  GsaFlow flow;
  int slices;  // of the scan
  int walks;
};

__device__ void count_up(int* counter) {
  asm volatile("red.release.gpu.global.add.s32 [%0], 1;\n" ::"l"(counter) : "memory");
}
__device__ int read_counter(const int* counter) {
  int value;
  asm volatile("ld.acquire.gpu.global.s32 %0, [%1];\n" : "=r"(value) : "l"(counter) : "memory");
  return value;
}

// The block's place in the order of work.
__device__ int take_ticket(int* next, unsigned char* memory) {
  int* shared = reinterpret_cast<int*>(memory);
  if (threadIdx.x == 0) {
    *shared = atomicAdd(next, 1);
  }
  __syncthreads();
  const int ticket = *shared;
  __syncthreads();
  return ticket;
}

__global__ void __launch_bounds__(ReadTiles::threads, fused_blocks)
    forward_kernel(const __grid_constant__ ForwardArgs args) {
  extern __shared__ __align__(1024) unsigned char memory[];
  const int ticket = take_ticket(args.flow.next, memory);
  const int heads = args.scan.heads;
  if (ticket < args.walks) {
    const ScanItem item{ticket % args.slices, ticket / args.slices % heads,
                        ticket / (args.slices * heads)};
    walk_segment<WalkTiles, false>(args.scan, item, memory, [&](int chunk) {
      if (threadIdx.x == 0) {
        count_up(args.flow.stored + int64_t(chunk) * heads + item.head);
      }
    });
    return;
  }
  const int64_t chunk = args.flow.order[(ticket - args.walks) / args.read.query_heads];
  const int query_head = (ticket - args.walks) % args.read.query_heads;
  if (threadIdx.x == 0) {
    const int head = query_head / (args.read.query_heads / heads);
    constexpr unsigned nap_ns = 100;
    while (read_counter(args.flow.stored + chunk * heads + head) < args.slices) {
      __nanosleep(nap_ns);
    }
  }
  __syncthreads();
  read_chunk<fused_slots, 1>(args.read, chunk, query_head, memory);
}

template <int slots, int members>
__global__ void __launch_bounds__(members* warpgroup_threads, 2)
    read_kernel(const __grid_constant__ GsaReadArgs args) {
  extern __shared__ __align__(1024) unsigned char memory[];
  const int readers = args.query_heads / members;
  read_chunk<slots, members>(args, static_cast<int>(blockIdx.x) / readers,
                             static_cast<int>(blockIdx.x) % readers * members, memory);
}

template <int slots, int members>
void launch_read(cudaStream_t stream, const GsaSizes& sizes, const GsaReadArgs& read) {
  using Tiles = ForwardTiles<slots, members>;
  const auto blocks = static_cast<unsigned>(sizes.chunks * sizes.query_heads / members);
  if (blocks > 0) {
    launch_with_memory(read_kernel<slots, members>, dim3(blocks), Tiles::threads,
                       Tiles::memory_bytes, stream, read, "gsa read");
  }
}

}  // namespace

void launch_gsa_forward(cudaStream_t stream, const GsaSizes& sizes, const GsaScanArgs& scan,
                        const GsaReadArgs& read, const GsaFlow& flow) {
  if (scan.segments == 0) {
    return;
  }
  if (sizes.slots != fused_slots || sizes.side_by_side > 1 || sizes.chunks == 0) {
    launch_gsa_scan(stream, sizes, scan);
    sizes.slots == fused_slots ? launch_read<fused_slots, 2>(stream, sizes, read)
                               : launch_read<int(gsa_max_slots), 1>(stream, sizes, read);
    return;
  }
  launch_gsa_segments(stream, sizes, scan);
  const int slices =
      slices_of<WalkTiles>(scan.keys.padded_dim) + slices_of<WalkTiles>(scan.values.padded_dim);
  const ForwardArgs args{scan, read, flow, slices, slices * scan.heads * scan.segments};
  const auto blocks = static_cast<unsigned>(args.walks + sizes.chunks * sizes.query_heads);
  launch_with_memory(forward_kernel, dim3(blocks), ReadTiles::threads, fused_bytes, stream, args,
                     "gsa forward");
}

}  // namespace gsa::kernels::cuda
