// Launching the kernels of a GSA step: the sizes that they take, and their arguments.
#pragma once

#include <algorithm>
#include <stdexcept>

#include "kernels/cuda/gsa_decode_block.h"
#include "kernels/cuda/launch.h"
#include "kernels/decode.h"

namespace gsa::kernels::cuda::gsa_decode_block {

// The most blocks, up to max_cluster, that K and V can be cut over in quads.
inline int cluster_of(int64_t key_dim, int64_t value_dim) {
  int cluster = max_cluster;
  while (cluster > 1 && (key_dim % cluster != 0 || value_dim % (quad * cluster) != 0)) {
    cluster /= 2;
  }
  return cluster;
}

// Throws std::invalid_argument for sizes that the kernels do not take.
inline void require_sizes(const GsaDecode& args) {
  const int cluster = cluster_of(args.key_dim(), args.value_dim());
  const int64_t largest = std::max(args.key_dim(), args.value_dim()) / cluster;
  if (args.slots() > max_slots || args.slots() % quad != 0 || args.value_dim() % quad != 0 ||
      largest > max_part) {
    throw std::invalid_argument(
        "gsa_decode on CUDA takes up to 128 slots, slots and value dimensions that are multiples "
        "of 4, and head dimensions up to 1024; run other sizes on the CPU");
  }
}

template <typename T>
DecodeArgs<T> decode_args(const GsaDecode& args) {
  return {.projected = rows_of<T>(args.projected),
          .query_heads = int(args.query_heads),
          .heads = int(args.heads),
          .key_dim = int(args.key_dim()),
          .value_dim = int(args.value_dim()),
          .slots = int(args.slots()),
          .gate_factor = float(1.0 / args.gate_normalizer),
          .scale = float(args.scale),
          .key_state = elements_of<float>(args.key_state),
          .value_state = elements_of<float>(args.value_state),
          .output = rows_of<T>(args.output),
          .cluster = cluster_of(args.key_dim(), args.value_dim())};
}

template <typename T>
unsigned blocks_of(const GsaDecode& args, const DecodeArgs<T>& decode) {
  return unsigned(args.projected.dim(0) * args.query_heads * decode.cluster);
}

}  // namespace gsa::kernels::cuda::gsa_decode_block

namespace gsa::kernels::cuda {
// The step where args.kept is there (gsa_decode_kept.cu).
void gsa_decode_kept(Stream& stream, const GsaDecode& args);
}  // namespace gsa::kernels::cuda
