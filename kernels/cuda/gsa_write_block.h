// What the blocks of gsa_write.cu are made of: tiles in shared memory, a block's place, copies of
// tiles.
#pragma once

#include "kernels/cuda/gsa_kernels.h"

namespace gsa::kernels::cuda::write_chunks {

inline constexpr int stages = 2;
inline constexpr int role_warps = chunk_rows / strip_rows;
inline constexpr int role_threads = role_warps * warp_size;
inline constexpr int threads = 2 * role_threads;

template <int slots>
struct WriteTiles {
  static constexpr int panels = slots / panel_columns;
  static constexpr int slot_bytes = panels * panel_bytes;
  static constexpr int stage_bytes = 2 * panel_bytes + slot_bytes;
  static constexpr int key_gate = 0;  // g; each spreading warp's strip is its scratch once read
  static constexpr int end_key_gate = key_gate + slot_bytes;  // w
  static constexpr int operand = end_key_gate + slot_bytes;   // r e^b
  static constexpr int ring = operand + slot_bytes;
  static constexpr int slot_gradients = ring + stages * stage_bytes;  // ds [chunk, stride] float
  static constexpr int gradient_stride = slots + 8;  // rows of a quad in different banks
  static constexpr int gate_terms =                  // s ds, laid out likewise
      slot_gradients + chunk_rows * gradient_stride * int(sizeof(float));
  static constexpr int written_sums =
      gate_terms + chunk_rows * gradient_stride * int(sizeof(float));
  static constexpr int state_sums = written_sums + role_warps * slots * int(sizeof(float));
  static constexpr int memory_bytes = state_sums + slots * int(sizeof(float));
  static constexpr int tiles = panels * panel_tiles;
  static constexpr int resident_blocks = panels == 1 ? 2 : 1;
  static constexpr int segments = threads / slots;  // of the gate's sum over tokens
  static constexpr int segment_rows = chunk_rows / segments;
  static_assert(segments * slots * int(sizeof(float)) <= stage_bytes);
  static_assert(role_warps * strip_bytes <= stage_bytes);
};

// The two roles run different code between the same barriers.
__device__ inline void sync_roles() {
  asm volatile("bar.sync 1, %0;\n" ::"n"(threads) : "memory");
}

template <int slots>
struct WriteBlock {
  const GsaWriteArgs& args;
  ChunkGate<slots> gate;
  GsaChunk place;
  int64_t chunk;
  int head;
  bool any_steep;
  unsigned char* memory;
  uint32_t shared;
  int thread;
  int lane;
  int warp;  // of the role
  int row;   // first of the warp's 16
  // Changes from one query head of the group to the next.
  int query_head = 0;
  bool is_first = true;
  bool is_last = true;

  __device__ int64_t slot_base() const {
    return (chunk * args.query_heads + query_head) * chunk_rows * slots;
  }
  __device__ uint32_t stage(int tile) const {
    return shared +
           uint32_t(WriteTiles<slots>::ring + tile % stages * WriteTiles<slots>::stage_bytes);
  }
  __device__ float* floats(int offset) const { return reinterpret_cast<float*>(memory + offset); }
  __device__ int token(int element) const { return row + lane / 4 + element / 2 * 8; }
  __device__ int column(int tile, int element) const {
    return tile * 8 + lane % 4 * 2 + element % 2;
  }
};

// A thread's share of the copies of a side's tiles: one piece of every `rows_at_once`-th row.
template <int slots>
struct TileFetch {
  static constexpr int rows_at_once = threads / row_pieces;
  const bfloat16* written;
  const bfloat16* readers;
  const bfloat16* gradients;
  uint32_t offset;  // of the thread's first piece in a panel
  int row;
  int column;  // of the thread's piece, in the tile that comes next
  int next = 0;

  __device__ TileFetch(const WriteBlock<slots>& block, const GsaWriteSide& side)
      : offset(panel_offset(block.thread / row_pieces, block.thread % row_pieces)),
        row(block.thread / row_pieces),
        column(block.thread % row_pieces * piece_columns) {
    written = side.written.at(block.place.begin + row, block.head) + column;
    readers = side.readers.at(block.place.begin + row, block.query_head) + column;
    gradients = side.state_gradients +
                ((block.chunk * block.args.query_heads + block.query_head) * slots + row) *
                    side.padded_dim +
                column;
  }

  // Begins copying the next tile, if there is one.
  __device__ void fetch(const WriteBlock<slots>& block, const GsaWriteSide& side) {
    if (column < side.padded_dim) {
      const uint32_t stage = block.stage(next) + offset;
#pragma unroll
      for (int i = 0; i < slots / rows_at_once; ++i) {
        const uint32_t to = stage + uint32_t(i * rows_at_once * panel_row_bytes);
        const int64_t down = i * rows_at_once;
        if (i < chunk_rows / rows_at_once) {
          const bool exists = row + down < block.place.length;
          const bool has_written = exists && column < side.written.dim;
          const bool has_readers = exists && column < side.readers.dim;
          copy_piece(to, has_written ? written + down * side.written.stride : side.written.data,
                     has_written);
          copy_piece(to + panel_bytes,
                     has_readers ? readers + down * side.readers.stride : side.readers.data,
                     has_readers);
        }
        copy_piece(to + 2 * panel_bytes, gradients + down * side.padded_dim, true);
      }
    }
    commit_copies();
    written += panel_columns;
    readers += panel_columns;
    gradients += panel_columns;
    column += panel_columns;
    ++next;
  }

  // Once a tile has landed, before the barrier: swish of what this thread copied of q, k and v.
  __device__ void activate(const WriteBlock<slots>& block, const GsaWriteSide& side,
                           int tile) const {
#pragma unroll
    for (int i = 0; i < chunk_rows / rows_at_once; ++i) {
      const uint32_t at = block.stage(tile) + offset + uint32_t(i * rows_at_once * panel_row_bytes);
      if (side.activates_written) {
        swish_piece(at);
      }
      if (side.activates_readers) {
        swish_piece(at + panel_bytes);
      }
    }
  }
};

// What a side needs from its start: the gates, the operand r e^b and the first tile.
template <int slots>
__device__ void fetch_start(const WriteBlock<slots>& block, const GsaWriteSide& side,
                            TileFetch<slots>& tiles) {
  using Tiles = WriteTiles<slots>;
  const int64_t gate_base =
      (block.chunk * block.args.gates.heads + block.head) * chunk_rows * slots;
#pragma unroll
  for (int panel = 0; panel < Tiles::panels; ++panel) {
    const int column = panel * panel_columns;
    const auto copy = [&](int offset, const bfloat16* source) {
      copy_panel<chunk_rows, threads>(block.shared + uint32_t(offset + panel * panel_bytes),
                                      source + column, slots, chunk_rows, panel_columns,
                                      block.thread);
    };
    copy(Tiles::key_gate, block.args.gates.key_gate + gate_base);
    copy(Tiles::end_key_gate, block.args.gates.end_key_gate + gate_base);
    copy(Tiles::operand, side.gated_operands + block.slot_base());
  }
#pragma unroll
  for (int i = 0; i < stages - 1; ++i) {
    tiles.fetch(block, side);
  }
}

// The gate's gradient of one token and slot: of log alpha, or in projected mode of the logit.
__device__ inline void store_gate_gradient(const GsaWriteArgs& args, int64_t token, int head,
                                           int slot, float gradient) {
  if (args.gate_gradient.data != nullptr) {
    args.gate_gradient.at(token, head)[slot] = gradient;
    return;
  }
  const GsaGateRows& gate = args.gates.rows;
  const float logit = to_float(gate.logits.at(token, head)[slot]);
  args.logit_gradient.at(token, head)[slot] =
      from_float<bfloat16>(gradient * sigmoid(-logit) * gate.inverse_normalizer);
}

// Zeros where the column's token comes before the row's.
template <int slots>
__device__ void mask_earlier(const WriteBlock<slots>& block, StripAccumulator& a) {
#pragma unroll
  for (int tile = 0; tile < panel_tiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      a[tile][i] = block.column(tile, i) >= block.token(i) ? a[tile][i] : 0.0F;
    }
  }
}

}  // namespace gsa::kernels::cuda::write_chunks
