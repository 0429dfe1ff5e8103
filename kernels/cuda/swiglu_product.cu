// gate_up = input weight^T and output = swish(gate) * up, as one kernel: the product by tiles of
// tile_product.h, with the activation between the accumulators and memory.
//
// A tile is 128 tokens by 128 columns of the gate and the same 128 of up: the right operand's 256
// rows are 128 of the gate's weights, which the first block of a cluster copies, and 128 of up's,
// which the second one does. A thread so holds a gate and its up in two of its accumulators.
// Rounded to bfloat16, as backward will read them, they give the output, and all three leave by the
// copy engine, a panel of 64 columns at a time, through two panels of shared memory a warpgroup.
//
// Beside what the product alone moves, the output is written: N F values. The activation as a
// kernel of its own would read 2 N F besides.
#include "kernels/backends.h"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/tile_product.h"

namespace gsa::kernels::cuda {
namespace {

using namespace tile_product;

constexpr int stages = 4;
constexpr int half_columns = tile_columns / 2;  // of gate, and of up
constexpr int half_panels = half_columns / panel_columns;
constexpr int panels_out = 2;  // of a warpgroup
constexpr int out_bytes = groups * panels_out * panel_bytes;
constexpr int shared_bytes = Ring<stages>::bytes + out_bytes + Ring<stages>::barrier_bytes;

struct SwigluTiles {
  CUtensorMap input;
  CUtensorMap gate_weight;
  CUtensorMap up_weight;
  CUtensorMap gate;
  CUtensorMap up;
  CUtensorMap output;
  Tiles tiles;
  int has_output;
};

// Panels of a warpgroup on their way to memory, in turns.
class PanelsOut {
 public:
  __device__ PanelsOut(unsigned char* panels, int group)
      : panels_(panels + group * panels_out * panel_bytes),
        barrier_(1 + group),
        thread_(int(threadIdx.x) % warpgroup_threads) {}

  // By all threads of the warpgroup: writes the strips of its warps to (row, column).
  __device__ void put(const CUtensorMap& map, int column, int row, const StripOperand& strip) {
    if (thread_ == 0) {
      wait_copies_out<panels_out - 1>();
    }
    sync_threads(barrier_, warpgroup_threads);
    unsigned char* panel = panels_ + next_ * panel_bytes;
    write_strip(panel + thread_ / warp_size * strip_bytes, strip, thread_ % warp_size);
    publish_shared();
    sync_threads(barrier_, warpgroup_threads);
    if (thread_ == 0) {
      copy_panel_out(map, column, row, shared_address(panel));
      commit_copies_out();
    }
    next_ = (next_ + 1) % panels_out;
  }
  __device__ void finish() const {
    if (thread_ == 0) {
      wait_copies_out<0>();
    }
  }

 private:
  unsigned char* panels_;
  int barrier_;
  int thread_;
  int next_ = 0;
};

__device__ inline uint32_t swiglu(uint32_t gates, uint32_t ups) {
  const float2 gate = unpack_pair(gates);
  const float2 up = unpack_pair(ups);
  return pack_pair(up.x * (gate.x * sigmoid(gate.x)), up.y * (gate.y * sigmoid(gate.y)));
}

// The thread that copies.
__device__ __forceinline__ void copy_stages(const SwigluTiles& args, Ring<stages> ring, int rank) {
  const CUtensorMap& weight = rank == 0 ? args.gate_weight : args.up_weight;
  each_tile(args.tiles, rank, [&](const TilePlace& place) {
    for (int step = 0; step < args.tiles.steps; ++step) {
      ring.begin_stage();
      copy_panels(ring.left(), args.input, step * panel_columns, place.row, ring.full());
      copy_panels_to_both(ring.right() + uint32_t(rank * right_half), weight, step * panel_columns,
                          place.column / 2, ring.full());
      ring.advance();
    }
  });
}

// A warpgroup that multiplies.
__device__ __forceinline__ void multiply(const SwigluTiles& args, Ring<stages> ring,
                                         unsigned char* panels, int group, int rank) {
  const int lane = int(threadIdx.x) % warp_size;
  PanelsOut out(panels, group);
  each_tile(args.tiles, rank, [&](const TilePlace& place) {
    Accumulators c;
    multiply_tile<PanelRows::columns>(c, ring, args.tiles.steps, group, lane);
    const int row = place.row + group * group_rows;
#pragma unroll
    for (int panel = 0; panel < half_panels; ++panel) {
      const int column = place.column / 2 + panel * panel_columns;
      StripOperand gate;
      StripOperand up;
      to_operand(gate, c + panel * panel_tiles);
      to_operand(up, c + (half_panels + panel) * panel_tiles);
      out.put(args.gate, column, row, gate);
      out.put(args.up, column, row, up);
      if (args.has_output != 0) {
#pragma unroll
        for (int step = 0; step < panel_steps; ++step) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            gate[step][i] = swiglu(gate[step][i], up[step][i]);
          }
        }
        out.put(args.output, column, row, gate);
      }
    }
  });
  out.finish();
}

__global__ void __cluster_dims__(cluster, 1, 1) __launch_bounds__(threads, 1)
    swiglu_product_kernel(const __grid_constant__ SwigluTiles args) {
  extern __shared__ __align__(1024) unsigned char memory[];
  unsigned char* panels = memory + Ring<stages>::bytes;
  const Ring<stages> ring(shared_address(memory), shared_address(panels + out_bytes));
  const int rank = cluster_rank();
  const int group = int(threadIdx.x) / warpgroup_threads;
  if (threadIdx.x == 0) {
    ring.init();
  }
  sync_cluster();
  if (group == groups) {
    give_registers<copier_registers>();
    if (threadIdx.x == groups * warpgroup_threads) {
      copy_stages(args, ring, rank);
    }
    __syncwarp();
  } else {
    take_registers<group_registers>();
    multiply(args, ring, panels, group, rank);
  }
  // What the other block still copies and says comes to this one's memory.
  sync_cluster();
}

bool takes_tiles(const SwigluProductForward& args) {
  const int64_t columns = args.gate_up.dim(1) / 2;
  return args.input.dtype() == DType::bfloat16 && args.input.dim(1) > 0 &&
         are_aligned(args.input, args.weight, args.gate_up.columns(0, columns),
                     args.gate_up.columns(columns, 2 * columns), args.output) &&
         columns % piece_columns == 0 && args.input.dim(1) % piece_columns == 0;
}

SwigluTiles tiles_of(const SwigluProductForward& args) {
  const int64_t tokens = args.gate_up.dim(0);
  const int64_t columns = args.gate_up.dim(1) / 2;
  const int64_t depth = args.input.dim(1);
  const auto map = [](const ConstTensor& matrix, int box_rows) {
    return map_panels(rows_of<bfloat16>(matrix), matrix.dim(0), matrix.dim(1), box_rows);
  };
  SwigluTiles tiles{};
  tiles.input = map(args.input, tile_rows);
  tiles.gate_weight = map(args.weight.rows(0, columns), half_columns);
  tiles.up_weight = map(args.weight.rows(columns, 2 * columns), half_columns);
  tiles.gate = map(args.gate_up.columns(0, columns), group_rows);
  tiles.up = map(args.gate_up.columns(columns, 2 * columns), group_rows);
  tiles.has_output = args.output ? 1 : 0;
  tiles.output = args.output ? map(args.output, group_rows) : tiles.gate;
  tiles.tiles = Tiles::of(tokens, 2 * columns, depth);
  return tiles;
}

}  // namespace

void swiglu_product_forward(Stream& stream, const SwigluProductForward& args,
                            std::byte* workspace) {
  if (args.gate_up.dim(0) == 0 || args.gate_up.dim(1) == 0) {
    return;
  }
  if (takes_tiles(args)) {
    const SwigluTiles tiles = tiles_of(args);
    launch_tiles(stream, swiglu_product_kernel, tiles, tiles.tiles, shared_bytes,
                 "swiglu_product_forward");
    return;
  }
  matmul(stream, args.product(), workspace);
  if (args.output) {
    cuda::swiglu_forward(stream, args.activation());
  }
}

}  // namespace gsa::kernels::cuda
