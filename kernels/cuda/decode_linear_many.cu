// Products of a decode step for 9 to 64 sequences by decode_linear_many.h: how they are cut.
//
// Clusters are of four blocks where these have room for the input, else of eight, and as many as
// run at once, a block a multiprocessor. With the sizes of a 1.3B model, in units of 32 KB a block:
// 32 clusters of 4 have 6 or 7 units of q/k/v/f, two of o, 11 of gate/up, 31 or 32 of the head; 16
// of 8 have four of down, of 44 KB.
#include "kernels/cuda/decode_linear_many.h"

#include <algorithm>

#include "kernels/cuda/decode_linear.h"
#include "kernels/cuda/tensor_map.h"

namespace gsa::kernels::cuda::decode {
namespace {

using decode_many::ManyProduct;
using decode_many::Partition;
using decode_many::SharedLayout;

// All that a block may have. Units of 40 KB (K = 2560) get five slots by the last kilobyte; the
// others would get as many of 222 KB.
constexpr int memory_bytes = 227 << 10;

// Measured (NOTES.md): fewer and more are slower.
constexpr int units_ahead = 1;
constexpr int units_under_way = 2;

// The most panels of the depth in a block that kernels exist for; clusters of eight have but one.
constexpr int few_panels = 8;
constexpr int most_panels = decode_many::most_panels;

bool is_gated(const DecodeLinear& args) {
  return args.activation == DecodeActivation::swiglu;
}
int groups_of(const DecodeLinear& args) {
  return is_gated(args) ? 2 : 1;
}

// The size of the clusters for an input, or -1: each block has some of it, and not too much.
int cluster_bits_for(int panels) {
  for (const int bits : {2, 3}) {
    if (panels >= 1 << bits && panels <= most_panels << bits) {
      return bits;
    }
  }
  return -1;
}

Partition partition_of(const DecodeLinear& args) {
  Partition partition{};
  partition.panels = int(args.input.dim(1) / panel_columns);
  partition.cluster_bits = cluster_bits_for(partition.panels);
  partition.units = int(blocks_of(args.output.dim(1), decode_many::unit_rows / groups_of(args)));
  const int left = memory_bytes - SharedLayout(partition).bytes;
  partition.slots = std::min(left / partition.slot_bytes(), decode_many::most_slots);
  partition.ahead = units_ahead;
  partition.under_way = units_under_way;
  return partition;
}

ManyProduct product_of(const DecodeLinear& args) {
  ManyProduct product{};
  product.partition = partition_of(args);
  product.rows = int(args.input.dim(0));
  product.outputs = int(args.output.dim(1));
  product.input = map_panels(args.input, decode_many::most_rows);
  for (int group = 0; group < groups_of(args); ++group) {
    const int64_t first = int64_t(group) * product.outputs;
    product.weights[group] = map_row_groups(args.weight.rows(first, first + product.outputs),
                                            product.partition.block_panels());
  }
  product.norm = args.norm == DecodeNorm::rms_norm;
  product.norm_weight = product.norm ? elements_of<bfloat16>(args.norm_weight) : nullptr;
  product.epsilon = float(args.epsilon);
  product.residual = rows_of<bfloat16>(args.residual);
  if (args.output.dtype() == DType::bfloat16) {
    product.output = rows_of<bfloat16>(args.output);
  } else {
    product.float_output = rows_of<float>(args.output);
  }
  return product;
}

template <int groups, int cluster, int panels>
void launch(Stream& stream, ManyProduct product) {
  constexpr auto* kernel = decode_many::many_kernel<groups, cluster, panels>;
  DependentLaunch launch{.blocks = cluster,
                         .threads = decode_many::Shares<cluster>::threads,
                         .cluster = cluster,
                         .shared_bytes = memory_bytes};
  static const int at_once = clusters_at_once(kernel, launch, "decode_linear");
  Partition& partition = product.partition;
  partition.clusters = std::min(at_once, partition.units);
  launch.blocks = unsigned(partition.clusters * cluster);
  launch.shared_bytes = size_t(SharedLayout(partition).bytes);
  launch_dependent(kernel, launch, product, stream, "decode_linear");
}

// Launches the kernel for the partition.
template <int groups>
void launch(Stream& stream, const ManyProduct& product) {
  if (product.partition.cluster_bits == 3) {
    launch<groups, 8, most_panels>(stream, product);
  } else if (product.partition.block_panels() > few_panels) {
    launch<groups, 4, most_panels>(stream, product);
  } else {
    launch<groups, 4, few_panels>(stream, product);
  }
}

}  // namespace

bool takes_many(const DecodeLinear& args) {
  const int64_t rows = args.input.dim(0);
  const int64_t columns = args.input.dim(1);
  const int64_t outputs = args.output.dim(1);
  return args.input.dtype() == DType::bfloat16 && rows <= decode_many::most_rows &&
         columns % panel_columns == 0 && outputs % 2 == 0 &&
         are_aligned(args.input, args.weight, args.norm_weight, args.residual, args.output) &&
         cluster_bits_for(int(columns / panel_columns)) > 0;
}

void run_many(Stream& stream, const DecodeLinear& args) {
  const ManyProduct product = product_of(args);
  if (is_gated(args)) {
    launch<2>(stream, product);
  } else {
    launch<1>(stream, product);
  }
}

}  // namespace gsa::kernels::cuda::decode
