// The scan by itself (gsa_scan_walk.h): for more slots than the forward kernel takes, and the first
// pass of one by segments.
#include "kernels/cuda/gsa_scan_walk.h"

namespace gsa::kernels::cuda {
namespace {

using namespace scans;

// Blocks that a multiprocessor is to hold: few have more of their chunks on the way.
constexpr int many_blocks(int slots) {
  return slots == panel_columns ? 4 : 2;
}
constexpr int few_blocks = 2;

// Stages of a chunk that each of so many blocks has room for.
template <int slots, int blocks>
using AloneTiles =
    ScanTiles<slots, 1, blocks != few_blocks ? 3 : (slots == panel_columns ? 6 : 4)>;

template <int slots, int blocks, bool segments_only>
__global__ void __launch_bounds__(slots / strip_rows* warp_size, blocks)
    scan_kernel(const __grid_constant__ GsaScanArgs args) {
  extern __shared__ __align__(1024) unsigned char memory[];
  const ScanItem item{static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y),
                      static_cast<int>(blockIdx.z)};
  walk_segment<AloneTiles<slots, blocks>, segments_only>(args, item, memory, [](int /*chunk*/) {});
}

template <int slots, int blocks, bool segments_only>
void launch(cudaStream_t stream, const GsaScanArgs& args) {
  using Tiles = AloneTiles<slots, blocks>;
  const int slices =
      slices_of<Tiles>(args.keys.padded_dim) + slices_of<Tiles>(args.values.padded_dim);
  const dim3 grid(static_cast<unsigned>(slices), static_cast<unsigned>(args.heads),
                  static_cast<unsigned>(args.segments));
  launch_with_memory(scan_kernel<slots, blocks, segments_only>, grid, Tiles::threads,
                     Tiles::memory_bytes, stream, args, "gsa scan");
}

template <int slots, bool segments_only>
void launch(cudaStream_t stream, const GsaScanArgs& args) {
  constexpr int multiprocessors = 132;  // of an H100 or H200; elsewhere a guess
  using Tiles = AloneTiles<slots, few_blocks>;
  const int64_t blocks =
      int64_t(slices_of<Tiles>(args.keys.padded_dim) + slices_of<Tiles>(args.values.padded_dim)) *
      args.heads * args.segments;
  if (blocks <= few_blocks * multiprocessors) {
    launch<slots, few_blocks, segments_only>(stream, args);
  } else {
    launch<slots, many_blocks(slots), segments_only>(stream, args);
  }
}

}  // namespace

void launch_gsa_segments(cudaStream_t stream, const GsaSizes& sizes, const GsaScanArgs& args) {
  if (args.segments > args.sequences) {
    sizes.slots == gsa_tile ? launch<64, true>(stream, args) : launch<128, true>(stream, args);
  }
}

void launch_gsa_scan(cudaStream_t stream, const GsaSizes& sizes, const GsaScanArgs& args) {
  if (args.segments == 0) {
    return;
  }
  launch_gsa_segments(stream, sizes, args);
  sizes.slots == gsa_tile ? launch<64, false>(stream, args) : launch<128, false>(stream, args);
}

}  // namespace gsa::kernels::cuda
