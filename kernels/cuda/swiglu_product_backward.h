// The gradient of the activation, grad_product weight, and from it those of gate and up, as one
// kernel: the product by tiles of tile_product.h, whose results never leave the chip.
//
// A tile is 128 tokens by 256 columns of the activation. The right operand, rows of depth as they
// lie in memory, is four panels of 64 columns, of which each block of a cluster copies two. Gate
// and up come by the copy engine, a few rows ahead of those that are worked on, and their gradients
// and the output, written again, go to memory, a thread's 16 bytes of each at a time.
//
// Beside what the product alone reads that is 5 N F values; as a kernel of its own the activation's
// gradient would move two more.
#pragma once

#include "kernels/cuda/tile_product.h"

namespace gsa::kernels::cuda::tile_product {

// Gate and up of two neighbours become their gradients, and the output's gradient the output.
__device__ inline void go_back(uint32_t& gates, uint32_t& ups, uint32_t& grads) {
  const float2 gate = unpack_pair(gates);
  const float2 up = unpack_pair(ups);
  const float2 grad = unpack_pair(grads);
  const float low = sigmoid(gate.x);
  const float high = sigmoid(gate.y);
  const float swish_low = gate.x * low;
  const float swish_high = gate.y * high;
  const float output_low = swish_low * up.x;
  const float output_high = swish_high * up.y;
  // The slope of swish is s + swish (1 - s).
  gates = pack_pair(grad.x * (up.x * low + output_low * (1.0F - low)),
                    grad.y * (up.y * high + output_high * (1.0F - high)));
  ups = pack_pair(grad.x * swish_low, grad.y * swish_high);
  grads = pack_pair(output_low, output_high);
}

struct SwigluGradientProduct {
  CUtensorMap left;  // grad_product
  CUtensorMap weight;
  CUtensorMap gate;
  CUtensorMap up;
  Rows<bfloat16> grad_gate;
  Rows<bfloat16> grad_up;  // rows as far apart
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

  // A warp of those that finish takes eight rows of 64 columns at a time, a *unit*, through one of
  // its sets: gate and up of a unit, 1 KB each. As soon as they are in registers the set is asked
  // for again, three units ahead and on into the next tile.
  static constexpr int unit_rows = 2 * warp_rows;
  static constexpr int units = tile_rows / unit_rows * group_panels;
  static constexpr int sets = 3;
  static constexpr int half_set = unit_rows * panel_row_bytes;
  static constexpr int set_bytes = 2 * half_set;
  static constexpr int finish_bytes = finishing_warps * sets * set_bytes;
  static constexpr int finish_barriers = finishing_warps * sets;
  static constexpr int finish_readers = 2;  // one runs ahead, and asks

  class Finisher {
   public:
    __device__ Finisher(const SwigluGradientProduct& product, unsigned char* memory,
                        uint32_t barriers, const TileQueue& queue, int thread, int rank)
        : product_(product),
          warp_(thread / warp_size),
          lane_(thread % warp_size),
          rank_(rank),
          memory_(memory + warp_ * sets * set_bytes),
          barriers_(barriers + uint32_t(warp_ * sets * 8)),
          queue_(queue),
          asked_tile_(queue_.next(lane_)),
          asked_place_(product.tiles, asked_tile_, rank),
          asked_unit_(warp_) {
      for (int set = 0; set < sets; ++set) {
        ask(set);
      }
    }

    template <typename Wait>
    __device__ void finish(const unsigned char* results, const TilePlace& place, const Wait& wait) {
      wait();
      const Targets targets(product_, place, lane_);
      for (int unit = warp_; unit < units; unit += finishing_warps) {
        finish_unit(results, targets, unit / group_panels * unit_rows, unit % group_panels);
      }
    }

   private:
    // Asks for gate and up of the unit that comes after those asked for.
    __device__ void ask(int set) {
      if (lane_ == 0 && asked_tile_ < product_.tiles.count()) {
        const int row = asked_place_.row + asked_unit_ / group_panels * unit_rows;
        const int column = asked_place_.column + asked_unit_ % group_panels * panel_columns;
        const uint32_t target = shared_address(memory_ + set * set_bytes);
        const uint32_t barrier = barriers_ + uint32_t(set * 8);
        arrive_expecting(barrier, set_bytes);
        copy_panels(target, product_.gate, column, row, barrier);
        copy_panels(target + half_set, product_.up, column, row, barrier);
      }
      asked_unit_ += finishing_warps;
      if (asked_unit_ >= units && asked_tile_ < product_.tiles.count()) {
        asked_unit_ = warp_;
        asked_tile_ = queue_.next(lane_);
        asked_place_ = TilePlace(product_.tiles, asked_tile_, rank_);
      }
    }

    // Where this lane's pieces of a tile go: of its first unit, and how far it is to the others.
    struct Targets {
      bfloat16* grad_gate;
      bfloat16* grad_up;
      bfloat16* output;
      int64_t rows_left;  // that are tokens
      int columns_left;

      __device__ Targets(const SwigluGradientProduct& product, const TilePlace& place, int lane) {
        const int64_t token = place.row + piece_row(lane);
        const int column = place.column + piece_column(lane);
        grad_gate = product.grad_gate.at(token, column);
        grad_up = product.grad_up.at(token, column);
        output = product.output.at(token, column);
        rows_left = product.tokens - token;
        columns_left = product.columns - column;
      }
    };

    // Rows [row, row + unit_rows) of a panel of columns.
    __device__ __forceinline__ void finish_unit(const unsigned char* results,
                                                const Targets& targets, int row, int panel) {
      uint4 gates[2];
      uint4 ups[2];
      uint4 grads[2];
      const unsigned char* set = memory_ + set_ * set_bytes;
      const unsigned char* unit = panel_row(results, row, panel);
      wait_barrier(barriers_ + uint32_t(set_ * 8), phase_);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint32_t piece = panel_offset(i * warp_rows + piece_row(lane_), lane_ % row_pieces);
        gates[i] = *reinterpret_cast<const uint4*>(set + piece);
        ups[i] = *reinterpret_cast<const uint4*>(set + half_set + piece);
        grads[i] = *reinterpret_cast<const uint4*>(unit + piece);
      }
      each_word([&](int word) {
        go_back(word_of(gates[0], word), word_of(ups[0], word), word_of(grads[0], word));
        go_back(word_of(gates[1], word), word_of(ups[1], word), word_of(grads[1], word));
      });
      __syncwarp();  // what the set had is in use, not on its way: the set may be copied over
      ask(set_);
      const int64_t gate_offset = row * product_.grad_gate.stride + panel * panel_columns;
      const int64_t output_offset = row * product_.output.stride + panel * panel_columns;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (row + i * warp_rows < targets.rows_left &&
            panel * panel_columns < targets.columns_left) {
          const int64_t gate_at = gate_offset + i * warp_rows * product_.grad_gate.stride;
          const int64_t output_at = output_offset + i * warp_rows * product_.output.stride;
          store_piece(targets.grad_gate + gate_at, gates[i]);
          store_piece(targets.grad_up + gate_at, ups[i]);
          store_piece(targets.output + output_at, grads[i]);
        }
      }
      if (++set_ == sets) {
        set_ = 0;
        phase_ ^= 1;
      }
    }

    const SwigluGradientProduct& product_;
    int warp_;
    int lane_;
    int rank_;
    unsigned char* memory_;
    uint32_t barriers_;
    TileQueue queue_;
    int asked_tile_;
    TilePlace asked_place_;
    int asked_unit_;
    int set_ = 0;
    int phase_ = 0;
  };
};

}  // namespace gsa::kernels::cuda::tile_product
