// gate_up = input weight^T and output = swish(gate) * up, as one kernel: the product by tiles of
// tile_product.h, with the activation between the chip and memory.
//
// A tile is 128 tokens by 128 columns of the gate and the same 128 of up: the right operand's 256
// rows are 128 of the gate's weights, which the first block of a cluster copies, and 128 of up's,
// which the second one does. Rounded to bfloat16, as backward will read them, they give the output.
//
// Beside what the product alone moves, the output is written: N F values. The activation as a
// kernel of its own would read 2 N F besides.
#pragma once

#include "kernels/cuda/tile_product.h"

namespace gsa::kernels::cuda::tile_product {

inline constexpr int half_columns = tile_columns / 2;  // of gate, and of up
inline constexpr int half_panels = half_columns / panel_columns;

// Two neighbours.
__device__ inline uint32_t swiglu(uint32_t gates, uint32_t ups) {
  const float2 gate = unpack_pair(gates);
  const float2 up = unpack_pair(ups);
  return pack_pair(up.x * (gate.x * sigmoid(gate.x)), up.y * (gate.y * sigmoid(gate.y)));
}

struct SwigluProduct {
  CUtensorMap left;  // the input
  CUtensorMap gate_weight;
  CUtensorMap up_weight;
  Rows<bfloat16> gate;
  Rows<bfloat16> up;
  Rows<bfloat16> output;  // or absent
  int64_t tokens;
  int columns;  // F
  Tiles tiles;
  static constexpr PanelRows right = PanelRows::columns;

  __device__ void copy_right(const Ring& ring, const TilePlace& place, int step, int rank) const {
    copy_panels_to_both(ring.right() + uint32_t(rank * right_half),
                        rank == 0 ? gate_weight : up_weight, step * panel_columns, place.column / 2,
                        ring.full());
  }

  static constexpr int finish_bytes = 0;
  static constexpr int finish_barriers = 0;
  static constexpr int finish_readers = 1;

  // A warp of those that finish takes four rows at a time.
  class Finisher {
   public:
    __device__ Finisher(const SwigluProduct& product, unsigned char* /*memory*/,
                        uint32_t /*barriers*/, const TileQueue& /*queue*/, int thread, int /*rank*/)
        : product_(product), warp_(thread / warp_size), lane_(thread % warp_size) {}

    template <typename Wait>
    __device__ void finish(const unsigned char* results, const TilePlace& place, const Wait& wait) {
      wait();
      for (int panel = 0; panel < half_panels; ++panel) {
        const int column = place.column / 2 + panel * panel_columns + piece_column(lane_);
#pragma unroll 4
        for (int row = warp_ * warp_rows; row < tile_rows; row += finishing_warps * warp_rows) {
          const int64_t token = place.row + row + piece_row(lane_);
          uint4 gates = result_piece(results, row, panel, lane_);
          const uint4 ups = result_piece(results, row, half_panels + panel, lane_);
          if (token < product_.tokens && column < product_.columns) {
            store(gates, ups, token, column);
          }
        }
      }
    }

   private:
    __device__ void store(uint4 gates, uint4 ups, int64_t token, int column) const {
      store_piece(product_.gate.at(token, column), gates);
      store_piece(product_.up.at(token, column), ups);
      if (product_.output) {
        each_word([&](int i) { word_of(gates, i) = swiglu(word_of(gates, i), word_of(ups, i)); });
        store_piece(product_.output.at(token, column), gates);
      }
    }

    const SwigluProduct& product_;
    int warp_;
    int lane_;
  };
};

}  // namespace gsa::kernels::cuda::tile_product
