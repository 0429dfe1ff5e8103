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

  template <typename Wait>
  __device__ void finish(const unsigned char* results, const TilePlace& place, int thread,
                         const Wait& wait) const {
    wait();
    for (int panel = 0; panel < half_panels; ++panel) {
#pragma unroll 4
      for (int round = 0; round < rounds; ++round) {
        const Piece piece(results, panel, round, thread);
        const int64_t row = place.row + piece.row;
        const int column = place.column / 2 + panel * panel_columns + piece.column;
        if (piece.row < tile_rows && row < tokens && column < columns) {
          uint4 gates = *piece.result;
          uint4 ups = *Piece(results, half_panels + panel, round, thread).result;
          *reinterpret_cast<uint4*>(gate.at(row, column)) = gates;
          *reinterpret_cast<uint4*>(up.at(row, column)) = ups;
          if (output) {
            each_word(
                [&](int i) { word_of(gates, i) = swiglu(word_of(gates, i), word_of(ups, i)); });
            *reinterpret_cast<uint4*>(output.at(row, column)) = gates;
          }
        }
      }
    }
  }
};

}  // namespace gsa::kernels::cuda::tile_product
