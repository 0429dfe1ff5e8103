// Products of a decode step for 9 to 64 sequences by decode_linear_many.h: how they are cut, and
// the norm in front of them, a block a sequence, as a kernel of the same chain.
//
// Shares are as wide as gives each cluster the fewest rows of weights: all clusters run at once, a
// block a multiprocessor, and have one share or a few. With the sizes of a 1.3B model, q/k/v/f: 31
// clusters of 4 blocks, 208 rows each; o: 32, 64 rows; gate/up: 32, two shares of 88 gates and ups;
// down: 16 of 8, 128 rows; head: 32, four shares of 256 rows.
//
// A block leaves place beside it for the next norm's, so that this one is there when it may begin,
// and the product behind it can fill its ring while it computes.
#include "kernels/cuda/decode_linear_many.h"

#include <utility>

#include "kernels/cuda/decode_linear.h"
#include "kernels/cuda/rms_norm_rows.h"
#include "kernels/cuda/tensor_map.h"

namespace gsa::kernels::cuda::decode {
namespace {

using decode_many::ManyProduct;
using decode_many::Partition;
using decode_many::SharedLayout;

// Shares that kernels exist for, in accumulator tiles of 8 rows of weights.
template <int... tiles>
using Widths = std::integer_sequence<int, tiles...>;
using PlainWidths = Widths<4, 8, 12, 16, 20, 26, 32>;
using GatedWidths = Widths<8, 16, 22, 28>;

// Clusters are of four blocks, or of eight where four have not the room for the input.
constexpr int cluster_bits = 2;
constexpr int large_cluster_bits = 3;
constexpr int enough_panels = 10;        // of the input, in a block
constexpr int fewest_slots = 3;          // of a ring
constexpr int memory_bytes = 222 << 10;  // of a block; the rest is for the norm's blocks

// The size of the clusters for an input, or -1: each block has some of it, and not too much.
int cluster_bits_for(int panels) {
  if (panels >= 1 << cluster_bits && panels <= enough_panels << cluster_bits) {
    return cluster_bits;
  }
  const bool fits = panels >= 1 << large_cluster_bits && panels <= decode_many::most_panels
                                                                       << large_cluster_bits;
  return fits ? large_cluster_bits : -1;
}

// The partition into shares of `tiles`; without slots if the memory does not suffice.
Partition partition_into(int tiles, int groups, int panels, int64_t outputs) {
  Partition partition{.tiles = tiles,
                      .groups = groups,
                      .cluster_bits = cluster_bits_for(panels),
                      .clusters = 0,
                      .shares = 0,
                      .panels = panels,
                      .slots = 0};
  partition.shares = int(blocks_of(outputs, partition.share_outputs()));
  partition.clusters = std::min(clusters_of(partition.cluster()), partition.shares);
  const int left = memory_bytes - SharedLayout(partition).bytes;
  const int rounds = int(blocks_of(partition.shares, partition.clusters));
  const int slots = std::min(left / partition.slot_bytes(), decode_many::most_slots);
  const int stages = rounds * partition.block_panels();
  partition.slots = slots >= std::min(fewest_slots, stages) ? std::min(slots, stages) : 0;
  return partition;
}

// Rows of weights that the busiest cluster has.
int64_t most_rows_of(const Partition& partition) {
  return int64_t(blocks_of(partition.shares, partition.clusters)) * partition.tiles;
}

// The partition that gives the busiest cluster the fewest rows, in few shares; without slots if
// there is none.
template <int... tiles>
Partition choose(Widths<tiles...> /*widths*/, int groups, int panels, int64_t outputs) {
  Partition best{};
  for (const int width : {tiles...}) {
    const Partition partition = partition_into(width, groups, panels, outputs);
    if (partition.slots > 0 && (best.slots == 0 || most_rows_of(partition) <= most_rows_of(best))) {
      best = partition;
    }
  }
  return best;
}

bool is_gated(const DecodeLinear& args) {
  return args.activation == DecodeActivation::swiglu;
}

Partition partition_of(const DecodeLinear& args) {
  const int panels = int(args.input.dim(1) / panel_columns);
  const int64_t outputs = args.output.dim(1);
  if (cluster_bits_for(panels) < 0) {
    return {};
  }
  return is_gated(args) ? choose(GatedWidths{}, 2, panels, outputs)
                        : choose(PlainWidths{}, 1, panels, outputs);
}

ManyProduct product_of(const DecodeLinear& args, const ConstTensor& input) {
  ManyProduct product{};
  product.partition = partition_of(args);
  product.rows = int(args.input.dim(0));
  product.outputs = int(args.output.dim(1));
  product.input = map_panels(input, decode_many::most_rows);
  for (int group = 0; group < product.partition.groups; ++group) {
    const int64_t first = int64_t(group) * product.outputs;
    product.weights[group] = map_panels(args.weight.rows(first, first + product.outputs),
                                        product.partition.share_outputs());
  }
  product.residual = rows_of<bfloat16>(args.residual);
  if (args.output.dtype() == DType::bfloat16) {
    product.output = rows_of<bfloat16>(args.output);
  } else {
    product.float_output = rows_of<float>(args.output);
  }
  return product;
}

template <int tiles, int groups>
void launch(Stream& stream, const ManyProduct& product) {
  using namespace decode_many;
  const Partition& partition = product.partition;
  launch_dependent(partition.cluster_bits == cluster_bits
                       ? many_kernel<tiles, groups, 1 << cluster_bits>
                       : many_kernel<tiles, groups, 1 << large_cluster_bits>,
                   {.blocks = unsigned(partition.clusters * partition.cluster()),
                    .threads = threads,
                    .cluster = unsigned(partition.cluster()),
                    .shared_bytes = size_t(SharedLayout(partition).bytes)},
                   product, stream, "decode_linear");
}

// Launches the kernel of the partition's width.
template <int groups, int... tiles>
void launch(Stream& stream, const ManyProduct& product, Widths<tiles...> /*widths*/) {
  ((product.partition.tiles == tiles ? launch<tiles, groups>(stream, product) : void()), ...);
}

struct NormArgs {
  Rows<const bfloat16> input;
  const bfloat16* weight;  // or absent
  float epsilon;
  Rows<bfloat16> output;
  int columns;
};

constexpr int norm_threads = 256;
constexpr int norm_vectors = norm_max_columns / norm_threads / vector_width;  // of a thread

__global__ void __launch_bounds__(norm_threads) norm_kernel(const NormArgs args) {
  using Part = Slice<bfloat16, vector_width, norm_vectors>;
  __shared__ float sums[norm_threads / warp_size];
  let_next_start();
  Part weight;
  if (args.weight != nullptr) {
    weight.load({args.weight, 0}, 0, args.columns);
  }
  wait_for_previous();
  const int row = int(blockIdx.x);
  Part input;
  input.load(args.input, row, args.columns);
  float squares = 0.0F;
  float x[norm_vectors][vector_width];
#pragma unroll
  for (int i = 0; i < norm_vectors; ++i) {
    if (Part::column(i) < args.columns) {
      input.vectors[i].unpack(x[i]);
#pragma unroll
      for (int j = 0; j < vector_width; ++j) {
        squares += x[i][j] * x[i][j];
      }
    }
  }
  const float total = block_reduce(squares, sums, Add{});
  const float scale = 1.0F / sqrtf(total / float(args.columns) + args.epsilon);
#pragma unroll
  for (int i = 0; i < norm_vectors; ++i) {
    if (Part::column(i) < args.columns) {
      float w[vector_width];
      weight.vectors[i].unpack(w);
#pragma unroll
      for (int j = 0; j < vector_width; ++j) {
        x[i][j] *= args.weight != nullptr ? scale * w[j] : scale;
      }
      store(args.output.at(row, Part::column(i)), x[i]);
    }
  }
}

}  // namespace

bool takes_many(const DecodeLinear& args) {
  const int64_t rows = args.input.dim(0);
  const int64_t columns = args.input.dim(1);
  const int64_t outputs = args.output.dim(1);
  return args.input.dtype() == DType::bfloat16 && rows <= decode_many::most_rows &&
         columns % panel_columns == 0 && columns <= norm_max_columns && outputs % 2 == 0 &&
         are_aligned(args.input, args.weight, args.norm_weight, args.residual, args.output) &&
         partition_of(args).slots > 0;
}

void run_many(Stream& stream, const DecodeLinear& args, const Tensor& normalized) {
  ConstTensor input = args.input;
  if (args.norm == DecodeNorm::rms_norm) {
    const NormArgs norm{rows_of<bfloat16>(args.input), elements_of<bfloat16>(args.norm_weight),
                        float(args.epsilon), rows_of<bfloat16>(normalized), int(args.input.dim(1))};
    launch_dependent(norm_kernel, {.blocks = unsigned(args.input.dim(0)), .threads = norm_threads},
                     norm, stream, "decode_linear");
    input = normalized;
  }
  const ManyProduct product = product_of(args, input);
  if (is_gated(args)) {
    launch<2>(stream, product, GatedWidths{});
  } else {
    launch<1>(stream, product, PlainWidths{});
  }
}

}  // namespace gsa::kernels::cuda::decode
