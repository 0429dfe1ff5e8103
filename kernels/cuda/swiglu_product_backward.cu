// The gradient of the activation, grad_product weight, and from it those of gate and up, as one
// kernel: the product by tiles of tile_product.h, whose accumulators never leave the chip.
//
// A tile is 128 tokens by 256 columns of the activation. The right operand, rows of depth as they
// lie in memory, is four panels of 64 columns, of which each block of a cluster copies two. When a
// tile's product is there, each warpgroup takes its 64 rows a panel of 64 columns at a time: gate
// and up, which the copy engine has brought, become their gradients where they lie, the output
// beside them is written again, and all three leave. The next panel of gate and up is on its way
// meanwhile, the first one of a tile while the tile is multiplied.
//
// Beside what the product alone reads, gate and up are read and their gradients and the output
// written, 5 N F values; as a kernel of its own the activation's gradient would move two more.
#include "kernels/backends.h"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/tile_product.h"

namespace gsa::kernels::cuda {
namespace {

using namespace tile_product;

constexpr int stages = 3;
constexpr int panels = tile_columns / panel_columns;
constexpr int sets = 2;                     // of a gate's and an up's panel
constexpr int group_panels = 2 * sets + 1;  // of a warpgroup: the sets, and the output's
constexpr int panel_memory = groups * group_panels * panel_bytes;
constexpr int barrier_bytes = Ring<stages>::barrier_bytes + groups * sets * 8;
constexpr int shared_bytes = Ring<stages>::bytes + panel_memory + barrier_bytes;

struct GradientTiles {
  CUtensorMap grad_product;
  CUtensorMap weight;
  CUtensorMap gate;
  CUtensorMap up;
  CUtensorMap grad_gate;
  CUtensorMap grad_up;
  CUtensorMap output;
  Tiles tiles;
};

// The thread that copies.
__device__ __forceinline__ void copy_stages(const GradientTiles& args, Ring<stages> ring,
                                            int rank) {
  constexpr int own_panels = panels / cluster;
  each_tile(args.tiles, rank, [&](const TilePlace& place) {
    for (int step = 0; step < args.tiles.steps; ++step) {
      ring.begin_stage();
      copy_panels(ring.left(), args.grad_product, step * panel_columns, place.row, ring.full());
      for (int i = 0; i < own_panels; ++i) {
        const int panel = rank * own_panels + i;
        copy_panels_to_both(ring.right() + uint32_t(panel * panel_bytes), args.weight,
                            place.column + panel * panel_columns, step * panel_columns,
                            ring.full());
      }
      ring.advance();
    }
  });
}

// Gate and up of two neighbours become their gradients; returns the output.
__device__ inline uint32_t go_back(uint32_t& gates, uint32_t& ups, float grad_low,
                                   float grad_high) {
  const float2 gate = unpack_pair(gates);
  const float2 up = unpack_pair(ups);
  const float low = sigmoid(gate.x);
  const float high = sigmoid(gate.y);
  const float swish_low = gate.x * low;
  const float swish_high = gate.y * high;
  gates = pack_pair(grad_low * up.x * swish_slope(gate.x, low),
                    grad_high * up.y * swish_slope(gate.y, high));
  ups = pack_pair(grad_low * swish_low, grad_high * swish_high);
  return pack_pair(swish_low * up.x, swish_high * up.y);
}

// A warpgroup's panels of gate and up, and what becomes of them.
class GradientPanels {
 public:
  // `barriers`: one a set.
  __device__ GradientPanels(const GradientTiles& args, unsigned char* memory, uint32_t barriers,
                            int group)
      : args_(args),
        memory_(memory + group * group_panels * panel_bytes),
        barriers_(barriers + uint32_t(group * sets * 8)),
        group_(group),
        thread_(int(threadIdx.x) % warpgroup_threads) {}

  // Asks for a panel of the set that comes next: one thread of the warpgroup.
  __device__ void ask(const TilePlace& place, int panel, int set) const {
    const uint32_t barrier = barriers_ + uint32_t(set * 8);
    const int column = place.column + panel * panel_columns;
    const int row = place.row + group_ * group_rows;
    arrive_expecting(barrier, 2 * panel_bytes);
    copy_panels(shared_address(at(2 * set)), args_.gate, column, row, barrier);
    copy_panels(shared_address(at(2 * set + 1)), args_.up, column, row, barrier);
  }
  __device__ bool asks() const { return thread_ == 0; }

  // The gradients of one panel; `c` are its accumulators. `ask_next` asks for the panel after it:
  // called by the thread that asks, once the copies out of that panel's set have read it.
  template <typename F>
  __device__ __forceinline__ void go_back_panel(const float (*c)[4], const TilePlace& place,
                                                int panel, int set, const F& ask_next) {
    wait_barrier(barriers_ + uint32_t(set * 8), phase_);
    const int lane = thread_ % warp_size;
    const uint32_t strip = uint32_t(thread_ / warp_size * strip_bytes) + lane_rows(lane);
    const uint32_t gates = shared_address(at(2 * set)) + strip;
    const uint32_t ups = shared_address(at(2 * set + 1)) + strip;
    StripOperand output;
#pragma unroll
    for (int step = 0; step < panel_steps; ++step) {
      const uint32_t piece = uint32_t(step) * two_pieces;
      uint32_t gate[4];
      uint32_t up[4];
      load_matrices(gate, gates ^ piece);
      load_matrices(up, ups ^ piece);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* grad = &c[2 * step + i / 2][i % 2 * 2];
        output[step][i] = go_back(gate[i], up[i], grad[0], grad[1]);
      }
      store_matrices(gates ^ piece, gate[0], gate[1], gate[2], gate[3]);
      store_matrices(ups ^ piece, up[0], up[1], up[2], up[3]);
      if (step == 0 && asks()) {
        wait_copies_out<0>();
        ask_next();
      }
    }
    sync_threads(1 + group_, warpgroup_threads);
    write_strip(at(2 * sets) + thread_ / warp_size * strip_bytes, output, lane);
    publish_shared();
    sync_threads(1 + group_, warpgroup_threads);
    if (asks()) {
      const int column = place.column + panel * panel_columns;
      const int row = place.row + group_ * group_rows;
      copy_panel_out(args_.grad_gate, column, row, shared_address(at(2 * set)));
      copy_panel_out(args_.grad_up, column, row, shared_address(at(2 * set + 1)));
      copy_panel_out(args_.output, column, row, shared_address(at(2 * sets)));
      commit_copies_out();
    }
    phase_ ^= set == sets - 1 ? 1 : 0;
  }

  __device__ void finish() const {
    if (asks()) {
      wait_copies_out<0>();
    }
  }

 private:
  __device__ unsigned char* at(int panel) const {
    return memory_ + panel * panel_bytes;
  }

  const GradientTiles& args_;
  unsigned char* memory_;
  uint32_t barriers_;
  int group_;
  int thread_;
  int phase_ = 0;
};

// A warpgroup that multiplies.
__device__ __forceinline__ void multiply(const GradientTiles& args, Ring<stages> ring,
                                         GradientPanels work, int group, int rank) {
  static_assert(panels % sets == 0, "a tile begins with the first set");
  const int lane = int(threadIdx.x) % warp_size;
  const int stride = int(gridDim.x) / cluster;
  int tile = int(blockIdx.x) / cluster;
  if (work.asks()) {
    work.ask(TilePlace(args.tiles, tile, rank), 0, 0);
  }
  for (; tile < args.tiles.count(); tile += stride) {
    const TilePlace place(args.tiles, tile, rank);
    Accumulators c;
    multiply_tile<PanelRows::depth>(c, ring, args.tiles.steps, group, lane);
#pragma unroll
    for (int panel = 0; panel < panels; ++panel) {
      work.go_back_panel(c + panel * panel_tiles, place, panel, panel % sets, [&] {
        if (panel + 1 < panels) {
          work.ask(place, panel + 1, (panel + 1) % sets);
        } else if (tile + stride < args.tiles.count()) {
          work.ask(TilePlace(args.tiles, tile + stride, rank), 0, 0);
        }
      });
    }
  }
  work.finish();
}

__global__ void __cluster_dims__(cluster, 1, 1) __launch_bounds__(threads, 1)
    swiglu_product_backward_kernel(const __grid_constant__ GradientTiles args) {
  extern __shared__ __align__(1024) unsigned char memory[];
  unsigned char* panel_start = memory + Ring<stages>::bytes;
  const uint32_t barriers = shared_address(panel_start + panel_memory);
  const uint32_t set_barriers = barriers + Ring<stages>::barrier_bytes;
  const Ring<stages> ring(shared_address(memory), barriers);
  const int rank = cluster_rank();
  const int group = int(threadIdx.x) / warpgroup_threads;
  if (threadIdx.x == 0) {
    for (int i = 0; i < groups * sets; ++i) {
      init_barrier(set_barriers + uint32_t(i * 8), 1);
    }
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
    multiply(args, ring, GradientPanels(args, panel_start, set_barriers, group), group, rank);
  }
  // What the other block still copies and says comes to this one's memory.
  sync_cluster();
}

bool takes_tiles(const SwigluProductBackward& args) {
  const int64_t columns = args.output.dim(1);
  const auto halves_aligned = [&](const ConstTensor& both) {
    return are_aligned(both.columns(0, columns), both.columns(columns, 2 * columns));
  };
  return args.output.dtype() == DType::bfloat16 && args.weight.dim(0) > 0 &&
         args.weight.dim(0) % piece_columns == 0 && columns % piece_columns == 0 &&
         are_aligned(args.grad_product, args.weight, args.output) && halves_aligned(args.gate_up) &&
         halves_aligned(args.grad_gate_up);
}

GradientTiles tiles_of(const SwigluProductBackward& args) {
  const int64_t columns = args.output.dim(1);
  const auto map = [](const ConstTensor& matrix, int box_rows) {
    return map_panels(rows_of<bfloat16>(matrix), matrix.dim(0), matrix.dim(1), box_rows);
  };
  return {.grad_product = map(args.grad_product, tile_rows),
          .weight = map(args.weight, panel_columns),
          .gate = map(args.gate_up.columns(0, columns), group_rows),
          .up = map(args.gate_up.columns(columns, 2 * columns), group_rows),
          .grad_gate = map(args.grad_gate_up.columns(0, columns), group_rows),
          .grad_up = map(args.grad_gate_up.columns(columns, 2 * columns), group_rows),
          .output = map(args.output, group_rows),
          .tiles = Tiles::of(args.output.dim(0), columns, args.weight.dim(0))};
}

}  // namespace

void swiglu_product_backward(Stream& stream, const SwigluProductBackward& args,
                             std::byte* workspace) {
  if (args.output.dim(0) == 0 || args.output.dim(1) == 0) {
    return;
  }
  if (takes_tiles(args)) {
    const GradientTiles tiles = tiles_of(args);
    launch_tiles(stream, swiglu_product_backward_kernel, tiles, tiles.tiles, shared_bytes,
                 "swiglu_product_backward");
    return;
  }
  matmul(stream, args.product(), workspace);
  cuda::swiglu_backward(stream, args.activation());
}

}  // namespace gsa::kernels::cuda
