// Launching the kernels of tile_product.h.
#pragma once

#include <algorithm>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/tile_product.h"

namespace gsa::kernels::cuda::tile_product {

// As many clusters as run at once, or as there are tiles.
template <typename Product>
void launch_tiles(Stream& stream, const Product& product, const char* name) {
  int device = 0;
  int multiprocessors = 0;
  check(cudaGetDevice(&device), name);
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device), name);
  constexpr int bytes = shared_bytes<Product>;
  check(cudaFuncSetAttribute(tile_kernel<Product>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             bytes),
        name);
  check(cudaMemsetAsync(product.tiles.taken, 0, sizeof(int), native(stream)), name);
  const int clusters = std::min(multiprocessors / cluster, product.tiles.count());
  tile_kernel<<<unsigned(clusters * cluster), threads, size_t(bytes), native(stream)>>>(product);
  check_launch(name);
}

}  // namespace gsa::kernels::cuda::tile_product
