// The gradient of the activation, grad_product weight, and from it those of gate and up, as one
// kernel: the product by tiles of tile_product.h, whose results never leave the chip.
//
// A tile is 128 tokens by 256 columns of the activation. The right operand, rows of depth as they
// lie in memory, is four panels of 64 columns, of which each block of a cluster copies two. Gate
// and up come from memory, some rows ahead of those that are worked on, and their gradients and the
// output, written again, go there: a thread's 16 bytes of each at a time.
//
// Beside what the product alone reads that is 5 N F values; as a kernel of its own the activation's
// gradient would move two more.
#include "kernels/backends.h"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/tile_product.h"

namespace gsa::kernels::cuda {
namespace {

using namespace tile_product;

// Gate and up of two neighbours become their gradients, and the output's gradient the output.
__device__ inline void go_back(uint32_t& gates, uint32_t& ups, uint32_t& grads) {
  const float2 gate = unpack_pair(gates);
  const float2 up = unpack_pair(ups);
  const float2 grad = unpack_pair(grads);
  const float low = sigmoid(gate.x);
  const float high = sigmoid(gate.y);
  const float swish_low = gate.x * low;
  const float swish_high = gate.y * high;
  gates = pack_pair(grad.x * up.x * swish_slope(gate.x, low),
                    grad.y * up.y * swish_slope(gate.y, high));
  ups = pack_pair(grad.x * swish_low, grad.y * swish_high);
  grads = pack_pair(swish_low * up.x, swish_high * up.y);
}

struct SwigluGradientProduct {
  CUtensorMap left;  // grad_product
  CUtensorMap weight;
  Rows<const bfloat16> gate;
  Rows<const bfloat16> up;
  Rows<bfloat16> grad_gate;
  Rows<bfloat16> grad_up;
  Rows<bfloat16> output;
  int64_t tokens;
  int columns;  // F
  Tiles tiles;
  static constexpr PanelRows right = PanelRows::depth;

  __device__ void copy_right(const Ring& ring, const TilePlace& place, int step, int rank) const {
    constexpr int own_panels = group_panels / cluster;
    for (int i = 0; i < own_panels; ++i) {
      const int panel = rank * own_panels + i;
      copy_panels_to_both(ring.right() + uint32_t(panel * panel_bytes), weight,
                          place.column + panel * panel_columns, step * panel_columns, ring.full());
    }
  }

  // Brings a tile's gate and up into the L2 cache: in the time of a tile, memory answers.
  __device__ void fetch(const TilePlace& place, int thread) const {
    constexpr int lines = group_panels;  // of 128 bytes in a row
    for (int i = thread; i < tile_rows * lines; i += finishers) {
      const int64_t row = place.row + i / lines;
      const int column = place.column + i % lines * panel_columns;
      if (row < tokens && column < columns) {
        asm volatile("prefetch.global.L2 [%0];\n" ::"l"(gate.at(row, column)));
        asm volatile("prefetch.global.L2 [%0];\n" ::"l"(up.at(row, column)));
      }
    }
  }

  // A thread's pieces of gate and up in some rounds; zeros where there are none.
  static constexpr int batch = 4;
  static constexpr int panel_batches = (rounds + batch - 1) / batch;
  struct Batch {
    uint4 gate[batch];
    uint4 up[batch];
  };

  // Calls `f(i, piece, row, column)` for what a thread has in the rounds of a batch.
  template <typename F>
  __device__ __forceinline__ void each_piece(const unsigned char* results, const TilePlace& place,
                                             int number, int thread, const F& f) const {
    const int panel = number / panel_batches;
#pragma unroll
    for (int i = 0; i < batch; ++i) {
      const Piece piece(results, panel, number % panel_batches * batch + i, thread);
      const int64_t row = place.row + piece.row;
      const int column = place.column + panel * panel_columns + piece.column;
      if (piece.row < tile_rows && row < tokens && column < columns) {
        f(i, piece, row, column);
      }
    }
  }

  __device__ __forceinline__ void load(Batch& into, const unsigned char* results,
                                       const TilePlace& place, int number, int thread) const {
    each_piece(results, place, number, thread,
               [&](int i, const Piece& /*piece*/, int64_t row, int column) {
                 into.gate[i] = *reinterpret_cast<const uint4*>(gate.at(row, column));
                 into.up[i] = *reinterpret_cast<const uint4*>(up.at(row, column));
               });
  }

  __device__ __forceinline__ void finish_batch(Batch& pieces, const unsigned char* results,
                                               const TilePlace& place, int number,
                                               int thread) const {
    each_piece(results, place, number, thread,
               [&](int i, const Piece& piece, int64_t row, int column) {
                 uint4 grads = *piece.result;
                 each_word([&](int word) {
                   go_back(word_of(pieces.gate[i], word), word_of(pieces.up[i], word),
                           word_of(grads, word));
                 });
                 *reinterpret_cast<uint4*>(grad_gate.at(row, column)) = pieces.gate[i];
                 *reinterpret_cast<uint4*>(grad_up.at(row, column)) = pieces.up[i];
                 *reinterpret_cast<uint4*>(output.at(row, column)) = grads;
               });
  }

  template <typename Wait>
  __device__ void finish(const unsigned char* results, const TilePlace& place, int thread,
                         const Wait& wait) const {
    constexpr int count = group_panels * panel_batches;
    static_assert(count % 2 == 0);
    Batch even{};
    Batch odd{};
    load(even, results, place, 0, thread);
    wait();
    for (int number = 0; number < count; number += 2) {
      load(odd, results, place, number + 1, thread);
      finish_batch(even, results, place, number, thread);
      if (number + 2 < count) {
        load(even, results, place, number + 2, thread);
      }
      finish_batch(odd, results, place, number + 1, thread);
    }
  }
};

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

SwigluGradientProduct tiles_of(const SwigluProductBackward& args) {
  const int64_t columns = args.output.dim(1);
  return {.left = map_panels(args.grad_product, tile_rows),
          .weight = map_panels(args.weight, panel_columns),
          .gate = rows_of<bfloat16>(args.gate_up.columns(0, columns)),
          .up = rows_of<bfloat16>(args.gate_up.columns(columns, 2 * columns)),
          .grad_gate = rows_of<bfloat16>(args.grad_gate_up.columns(0, columns)),
          .grad_up = rows_of<bfloat16>(args.grad_gate_up.columns(columns, 2 * columns)),
          .output = rows_of<bfloat16>(args.output),
          .tokens = args.output.dim(0),
          .columns = int(columns),
          .tiles = Tiles::of(args.output.dim(0), columns, args.weight.dim(0))};
}

}  // namespace

void swiglu_product_backward(Stream& stream, const SwigluProductBackward& args,
                             std::byte* workspace) {
  if (args.output.dim(0) == 0 || args.output.dim(1) == 0) {
    return;
  }
  if (takes_tiles(args)) {
    launch_tiles(stream, tiles_of(args), "swiglu_product_backward");
    return;
  }
  matmul(stream, args.product(), workspace);
  cuda::swiglu_backward(stream, args.activation());
}

}  // namespace gsa::kernels::cuda
