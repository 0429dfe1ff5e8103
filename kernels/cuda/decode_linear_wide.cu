// Products of a decode step for 9 to 64 sequences: still bound by reading the weights, if each is
// read once and the input, which every block needs, seldom.
//
// A cluster of c blocks has a share of the outputs, each block 1/c of the depth K: its columns of
// the input, [64 sequences, K/c], stay in shared memory, and weights pass by in panels of [64 rows,
// 64 columns], a stream for each of the two warpgroups (the halves of a round's outputs, or its
// gates and ups). Products are wgmma m64n64k16, sequences the left operand, 64 rows of weights the
// right one. At a round's end (up to 128 rows of weights) the blocks' partial sums are added up
// through the cluster's shared memory, in the order of the depth.
//
// Bytes: the weights, and the input once a cluster from the L2 cache: c = 4 and 32 clusters at B64
// K2048: 8 MB beside 26 MB of q/k/v/f.
//
// Shared memory: the input, 8 KB a panel; a ring of 6 panels a warpgroup, filled from before the
// kernel in front has ended; the partial sums. One block a multiprocessor.
#include <cuda.h>
#include <cudaTypedefs.h>

#include "kernels/cuda/decode_linear.h"

namespace gsa::kernels::cuda::decode {
namespace {

constexpr int groups = 2;  // warpgroups
constexpr int group_threads = 128;
constexpr int threads = groups * group_threads;
constexpr int panel_rows = 64;
constexpr int tiles = panel_rows / 8;  // accumulator tiles of a panel's rows
constexpr int depth_step_bytes = 32;   // of 16 columns within a panel's row
constexpr int box_rows = 8;            // that the copy engine takes at once
constexpr int box_bytes = box_rows * panel_row_bytes;
constexpr int max_cluster = 8;
constexpr int max_input_panels = 11;                     // for the smallest cluster
constexpr int most_input_panels = 14;                    // at all
constexpr int partial_stride = groups * panel_rows + 8;  // floats; 8: other banks
constexpr int alignment = 1024;                          // of panels

struct WideArgs {
  LinearArgs linear;
  CUtensorMap weights;  // [rows, K] in boxes of 8 rows by 64 columns
};

struct Products {
  float sums[tiles][4];

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < tiles; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        sums[i][j] = 0.0F;
      }
    }
  }
};

// A panel of 64-column rows as the hardware finds it: swizzled by 128 bytes, groups of eight rows
// 1024 bytes apart.
__device__ inline uint64_t panel_operand(uint32_t address) {
  constexpr uint64_t eight_rows = 8 * panel_row_bytes / piece_bytes;
  constexpr uint64_t swizzle_128 = uint64_t{1} << 62;
  return swizzle_128 | eight_rows << 32 | uint64_t{1} << 16 |
         uint64_t((address & 0x3ffffU) / piece_bytes);
}

__device__ inline void fence_products() {
  asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}
__device__ inline void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}
// Waits until no more than `pending` of the last groups of products are under way.
template <int pending>
__device__ inline void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(pending) : "memory");
}
// Keeps what uses the sums behind the wait in front of it.
__device__ inline void hold(Products& c) {
#pragma unroll
  for (int i = 0; i < tiles; ++i) {
    asm volatile(""
                 : "+f"(c.sums[i][0]), "+f"(c.sums[i][1]), "+f"(c.sums[i][2]),
                   "+f"(c.sums[i][3])::"memory");
  }
}
// Shared memory that threads have written, for products after the next barrier.
__device__ inline void publish_shared() {
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}
__device__ inline void group_barrier(int group) {
  asm volatile("bar.sync %0, %1;\n" ::"r"(group + 1), "n"(group_threads) : "memory");
}

// Barriers in shared memory that count copied bytes; `phase` alternates.
__device__ inline void init_barrier(uint32_t barrier) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;\n" ::"r"(barrier) : "memory");
}
__device__ inline void publish_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
}
__device__ inline void expect_bytes(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(barrier), "r"(bytes)
               : "memory");
}
__device__ inline void wait_bytes(uint32_t barrier, int phase) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n}\n" ::"r"(barrier),
      "r"(phase)
      : "memory");
}
__device__ inline void copy_box(uint32_t target, const CUtensorMap& map, int column, int row,
                                uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4}], [%2];\n" ::"r"(target),
      "l"(&map), "r"(barrier), "r"(column), "r"(row)
      : "memory");
}

// c += a b^T over a depth of 16: both [64 rows, 16 columns].
__device__ inline void multiply_async(Products& p, uint64_t a, uint64_t b) {
  auto& c = p.sums;
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "%32, %33, 1, 1, 1, 0, 0;\n"
      : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]),
        "+f"(c[1][2]), "+f"(c[1][3]), "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]),
        "+f"(c[3][0]), "+f"(c[3][1]), "+f"(c[3][2]), "+f"(c[3][3]), "+f"(c[4][0]), "+f"(c[4][1]),
        "+f"(c[4][2]), "+f"(c[4][3]), "+f"(c[5][0]), "+f"(c[5][1]), "+f"(c[5][2]), "+f"(c[5][3]),
        "+f"(c[6][0]), "+f"(c[6][1]), "+f"(c[6][2]), "+f"(c[6][3]), "+f"(c[7][0]), "+f"(c[7][1]),
        "+f"(c[7][2]), "+f"(c[7][3])
      : "l"(a), "l"(b));
}

struct SharedLayout {
  int input;    // offset: panels of 64 sequences
  int ring;     // offset: [groups][depth] panels of weights
  int partial;  // offset: [64 sequences][partial_stride]
  int norm;     // offset: the norm's weight for the block's columns
  int squares;  // offset: [64], sums of squares over the block's columns
  int arrived;  // offset: [groups][depth] barriers of the ring
  int bytes;

  __host__ __device__ SharedLayout(int input_panels, int depth) {
    input = 0;
    ring = input_panels * panel_bytes;
    partial = ring + groups * depth * panel_bytes;
    norm = partial + wide_rows * partial_stride * int(sizeof(float));
    squares = norm + input_panels * panel_row_bytes;
    arrived = squares + wide_rows * int(sizeof(float));
    bytes = arrived + groups * depth * int(sizeof(uint64_t)) + alignment;  // to align the start
  }
};

__host__ __device__ inline int most_panels(int columns, int cluster) {
  return (columns / panel_columns + cluster - 1) / cluster;
}

// What a block has of the work. Outputs are divided in boxes of 8.
struct BlockPlace {
  int rank;
  int outputs;
  bool gated;
  Span panels;  // of the depth
  int rounds;
  Parts turns;  // the cluster's boxes by round

  __device__ explicit BlockPlace(const LinearArgs& args)
      : rank(args.cluster > 1 ? cluster_rank() : 0),
        outputs(args.outputs),
        gated(args.up_offset != 0),
        panels(Parts({0, args.columns / panel_columns}, args.cluster).part(rank)),
        turns({0, 0}, 1) {
    constexpr unsigned panel_boxes = panel_rows / box_rows;
    const unsigned cluster = unsigned(args.cluster);
    const Span own = Parts({0, (outputs + box_rows - 1) / box_rows}, int(gridDim.x / cluster))
                         .part(int(blockIdx.x / cluster));
    const unsigned round_boxes = gated ? panel_boxes : groups * panel_boxes;
    rounds = int((unsigned(own.size()) + round_boxes - 1) / round_boxes);
    turns = Parts(own, max(rounds, 1));
  }
  // Boxes of outputs that a warpgroup has of a round: with swiglu, both have all of them.
  __device__ Span boxes(int round, int group) const {
    Span all = round < rounds ? turns.part(round) : Span{0, 0};
    if (!gated) {
      const int middle = all.begin + (all.size() + 1) / 2;
      all = group == 0 ? Span{all.begin, middle} : Span{middle, all.end};
    }
    return all;
  }
};

// A warpgroup's panels of weights on their way, in the order of use. One thread asks for them.
template <int depth>
class PanelRing {
 public:
  __device__ PanelRing(const WideArgs& args, const BlockPlace& place, uint32_t memory,
                       uint32_t arrived, int group)
      : args_(args),
        place_(place),
        memory_(memory),
        arrived_(arrived),
        group_(group),
        boxes_(place.boxes(0, group)),
        first_row_(place.gated && group == 1 ? args.linear.outputs : 0) {}

  // Asks for the next panel: one thread only.
  __device__ void ask() {
    const uint32_t panel = memory_ + uint32_t(asked_) * panel_bytes;
    const uint32_t barrier = arrived_ + uint32_t(asked_) * uint32_t(sizeof(uint64_t));
    expect_bytes(barrier, boxes_.size() * box_bytes);
    for (int i = 0; i < boxes_.size(); ++i) {
      copy_box(panel + uint32_t(i * box_bytes), args_.weights,
               (place_.panels.begin + panel_) * panel_columns,
               first_row_ + (boxes_.begin + i) * box_rows, barrier);
    }
    asked_ = asked_ + 1 == depth ? 0 : asked_ + 1;
    if (++panel_ == place_.panels.size()) {
      panel_ = 0;
      boxes_ = place_.boxes(++round_, group_);
    }
  }

  // Waits for the oldest panel. Returns its address.
  __device__ uint32_t take() {
    wait_bytes(arrived_ + uint32_t(taken_) * uint32_t(sizeof(uint64_t)), phase_);
    const uint32_t panel = memory_ + uint32_t(taken_) * panel_bytes;
    if (++taken_ == depth) {
      taken_ = 0;
      phase_ ^= 1;
    }
    return panel;
  }

 private:
  const WideArgs& args_;
  const BlockPlace& place_;
  uint32_t memory_;
  uint32_t arrived_;
  int group_;
  Span boxes_;
  int first_row_;
  int round_ = 0;
  int panel_ = 0;
  int asked_ = 0;
  int taken_ = 0;
  int phase_ = 0;
};

// The block's columns of the input, times the norm's weight, to their panels: four threads a
// sequence, `batch` pieces at a time. Sequences that do not exist are zero.
__device__ void stage_input(const LinearArgs& args, const BlockPlace& place,
                            const SharedLayout& layout, unsigned char* shared) {
  constexpr int batch = 8;
  constexpr int row_threads = threads / wide_rows;
  const int row = int(threadIdx.x) / row_threads;
  const int first = int(threadIdx.x) % row_threads;
  const int pieces = place.panels.size() * row_pieces;
  const bool exists = row < args.rows;
  const auto* norm = reinterpret_cast<const bfloat16*>(shared + layout.norm);
  const bfloat16* source =
      args.input + (exists ? row : 0) * args.input_stride + place.panels.begin * panel_columns;
  float squares = 0.0F;
  for (int begin = first; begin < pieces; begin += batch * row_threads) {
    Vector<bfloat16, vector_width> loaded[batch];
#pragma unroll
    for (int i = 0; i < batch; ++i) {
      const int piece = min(begin + i * row_threads, pieces - 1);
      loaded[i] = Vector<bfloat16, vector_width>::load(source + piece * piece_columns);
    }
#pragma unroll
    for (int i = 0; i < batch; ++i) {
      const int piece = begin + i * row_threads;
      if (piece < pieces) {
        float x[vector_width];
        loaded[i].unpack(x);
        squares += apply_norm(args, x, norm + piece * piece_columns);
#pragma unroll
        for (int j = 0; j < vector_width; ++j) {
          x[j] = exists ? x[j] : 0.0F;
        }
        unsigned char* panel = shared + layout.input + piece / row_pieces * panel_bytes;
        store(reinterpret_cast<bfloat16*>(panel + panel_offset(row, piece % row_pieces)), x);
      }
    }
  }
#pragma unroll
  for (int lanes = 1; lanes < row_threads; lanes *= 2) {
    squares += __shfl_xor_sync(~0U, squares, lanes);
  }
  if (first == 0) {
    reinterpret_cast<float*>(shared + layout.squares)[row] = squares;
  }
}

// Adds up the cluster's partial sums of this block's share of the sequences, and writes a round's
// outputs: a thread four neighbouring ones of a sequence at a time.
__device__ void finish_round(const LinearArgs& args, const BlockPlace& place,
                             const SharedLayout& layout, unsigned char* shared, int round) {
  constexpr int width = 4;
  constexpr int quads = panel_rows / width;  // of a panel's rows
  const auto* partial = reinterpret_cast<const float*>(shared + layout.partial);
  const auto* squares = reinterpret_cast<const float*>(shared + layout.squares);
  const Span sequences = Parts({0, args.rows}, args.cluster).part(place.rank);
  const auto add_parts = [&](int n, int column) {
    float4 parts[max_cluster];
#pragma unroll
    for (int rank = 0; rank < max_cluster; ++rank) {
      if (rank < args.cluster) {
        parts[rank] =
            load_shared4_in(shared_address_in(partial + n * partial_stride + column, rank));
      }
    }
    float4 sum{0, 0, 0, 0};
#pragma unroll
    for (int rank = 0; rank < max_cluster; ++rank) {
      if (rank < args.cluster) {
        sum.x += parts[rank].x;
        sum.y += parts[rank].y;
        sum.z += parts[rank].z;
        sum.w += parts[rank].w;
      }
    }
    return sum;
  };
  const int halves = place.gated ? 1 : groups;
  const int items = sequences.size() * halves * quads;
  for (int item = int(threadIdx.x); item < items; item += threads) {
    const int n = sequences.begin + item / (halves * quads);
    const int half = item / quads % halves;
    const int column = item % quads * width;
    const Span boxes = place.boxes(round, half);
    const int output = boxes.begin * box_rows + column;
    if (output >= min(boxes.end * box_rows, args.outputs)) {
      continue;
    }
    float residual[width] = {};
#pragma unroll
    for (int i = 0; i < width; ++i) {
      if (args.residual != nullptr && output + i < args.outputs) {
        residual[i] = to_float(args.residual[n * args.residual_stride + output + i]);
      }
    }
    float parts_of_squares[max_cluster];
#pragma unroll
    for (int rank = 0; rank < max_cluster; ++rank) {
      parts_of_squares[rank] =
          rank < args.cluster ? load_shared_in(shared_address_in(squares + n, rank)) : 0.0F;
    }
    const float4 sum = add_parts(n, half * panel_rows + column);
    float sum_of_squares = 0.0F;
#pragma unroll
    for (int rank = 0; rank < max_cluster; ++rank) {
      sum_of_squares += parts_of_squares[rank];
    }
    const float inverse = inverse_rms(args, sum_of_squares);
    float y[width] = {sum.x * inverse, sum.y * inverse, sum.z * inverse, sum.w * inverse};
    if (place.gated) {
      const float4 up = add_parts(n, panel_rows + column);
      const float ups[width] = {up.x, up.y, up.z, up.w};
#pragma unroll
      for (int i = 0; i < width; ++i) {
        y[i] = swish(y[i]) * (ups[i] * inverse);
      }
    }
#pragma unroll
    for (int i = 0; i < width; ++i) {
      if (output + i < args.outputs) {
        write_output(args, n, output + i, y[i] + residual[i]);
      }
    }
  }
}

__device__ inline void store_partial(const Products& products, float* partial, int group) {
  const int lane = int(threadIdx.x) % warp_size;
  const int warp = int(threadIdx.x) % group_threads / warp_size;
  const LanePlace place(lane);
#pragma unroll
  for (int i = 0; i < tiles; ++i) {
    float* at = partial + (warp * 16 + place.row) * partial_stride + group * panel_rows + i * 8 +
                place.column;
    *reinterpret_cast<float2*>(at) = make_float2(products.sums[i][0], products.sums[i][1]);
    *reinterpret_cast<float2*>(at + 8 * partial_stride) =
        make_float2(products.sums[i][2], products.sums[i][3]);
  }
}

template <int depth>
__global__ void __launch_bounds__(threads) wide_kernel(const __grid_constant__ WideArgs all) {
  extern __shared__ unsigned char unaligned[];
  let_next_start();
  const LinearArgs& args = all.linear;
  unsigned char* shared =
      unaligned + (alignment - shared_address(unaligned) % alignment) % alignment;
  const BlockPlace place(args);
  const SharedLayout layout(most_panels(args.columns, args.cluster), depth);
  const int group = int(threadIdx.x) / group_threads;
  const bool asks = threadIdx.x % group_threads == 0;
  const uint32_t arrived = shared_address(shared + layout.arrived);
  PanelRing<depth> ring(
      all, place, shared_address(shared + layout.ring) + uint32_t(group * depth * panel_bytes),
      arrived + uint32_t(group * depth) * uint32_t(sizeof(uint64_t)), group);
  if (threadIdx.x < groups * depth) {
    init_barrier(arrived + threadIdx.x * uint32_t(sizeof(uint64_t)));
    publish_barriers();
  }
  __syncthreads();
  if (asks) {
    for (int i = 0; i < depth; ++i) {
      ring.ask();
    }
  }
  if (args.norm_weight != nullptr) {
    auto* norm = reinterpret_cast<bfloat16*>(shared + layout.norm);
    for (int i = int(threadIdx.x); i < place.panels.size() * panel_columns; i += threads) {
      norm[i] = args.norm_weight[place.panels.begin * panel_columns + i];
    }
  }
  __syncthreads();

  wait_for_previous();
  stage_input(args, place, layout, shared);
  publish_shared();
  __syncthreads();
  if (args.cluster > 1) {
    cluster_arrive();
  }

  const uint32_t input = shared_address(shared + layout.input);
  float* partial = reinterpret_cast<float*>(shared + layout.partial);
  bool first = true;
  for (int round = 0; round < place.rounds; ++round) {
    Products products;
    products.clear();
    for (int i = 0; i < place.panels.size(); ++i) {
      const uint32_t weights = ring.take();
      fence_products();
#pragma unroll
      for (int step = 0; step < panel_steps; ++step) {
        multiply_async(products,
                       panel_operand(input + uint32_t(i * panel_bytes + step * depth_step_bytes)),
                       panel_operand(weights + uint32_t(step * depth_step_bytes)));
      }
      commit_products();
      wait_products<1>();
      group_barrier(group);  // all warps are done with the panel before
      if (asks && !first) {
        ring.ask();
      }
      first = false;
    }
    wait_products<0>();
    hold(products);
    // The round before has been read, then this one may be.
    if (args.cluster > 1) {
      cluster_wait();
    } else {
      __syncthreads();
    }
    store_partial(products, partial, group);
    if (args.cluster > 1) {
      cluster_arrive();
      cluster_wait();
    } else {
      __syncthreads();
    }
    finish_round(args, place, layout, shared, round);
    if (args.cluster > 1) {
      cluster_arrive();
    }
  }
  if (args.cluster > 1) {
    cluster_wait();  // nobody leaves while its memory is read
  }
}

// The driver's function, found without linking the driver.
PFN_cuTensorMapEncodeTiled_v12000 tensor_map_encoder() {
  static const auto encoder = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result{};
    constexpr unsigned version = 12000;
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, version,
                                           cudaEnableDefault, &result),
          "cuTensorMapEncodeTiled");
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
  }();
  return encoder;
}

CUtensorMap map_of(const LinearArgs& args) {
  const int64_t rows = args.up_offset != 0 ? 2 * int64_t{args.outputs} : args.outputs;
  CUtensorMap map;
  const cuuint64_t sizes[2] = {cuuint64_t(args.columns), cuuint64_t(rows)};
  const cuuint64_t strides[1] = {cuuint64_t(args.columns) * sizeof(bfloat16)};
  const cuuint32_t box[2] = {panel_columns, box_rows};
  const cuuint32_t steps[2] = {1, 1};
  const CUresult result = tensor_map_encoder()(
      &map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<bfloat16*>(args.weight), sizes, strides,
      box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    throw DeviceError("the CUDA driver takes no tensor map of weights [" + std::to_string(rows) +
                      ", " + std::to_string(args.columns) + "]: error " +
                      std::to_string(int(result)));
  }
  return map;
}

int cluster_for(int64_t columns) {
  for (int cluster = 1; cluster <= max_cluster; cluster *= 2) {
    const int panels = most_panels(int(columns), cluster);
    if (panels <= max_input_panels || (cluster == max_cluster && panels <= most_input_panels)) {
      return cluster;
    }
  }
  return 0;
}

template <int depth>
void launch(Stream& stream, const LinearArgs& args) {
  const SharedLayout layout(most_panels(args.columns, args.cluster), depth);
  const int used = std::max(1, std::min(clusters_of(args.cluster),
                                        (args.outputs + panel_rows / 2 - 1) / (panel_rows / 2)));
  launch_dependent(wide_kernel<depth>,
                   {.blocks = unsigned(used * args.cluster),
                    .threads = threads,
                    .cluster = unsigned(args.cluster),
                    .shared_bytes = size_t(layout.bytes)},
                   WideArgs{args, map_of(args)}, stream, "decode_linear");
}

}  // namespace

bool takes_wide(int64_t columns) {
  return columns % panel_columns == 0 && cluster_for(columns) > 0 &&
         columns / panel_columns >= cluster_for(columns);
}

void run_wide(Stream& stream, LinearArgs args) {
  constexpr int deep = 6;
  constexpr int shallow = 4;  // beside the largest inputs
  args.cluster = cluster_for(args.columns);
  if (most_panels(args.columns, args.cluster) <= max_input_panels) {
    launch<deep>(stream, args);
  } else {
    launch<shallow>(stream, args);
  }
}

}  // namespace gsa::kernels::cuda::decode
