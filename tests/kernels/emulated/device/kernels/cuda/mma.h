// kernels/cuda/mma.h on the emulator: panels, and accumulators on their way into them.
#pragma once

#include "kernels/cuda/vector.h"

namespace gsa::kernels::cuda {

inline constexpr int warp_size = emulated::warp_threads;
inline constexpr int panel_columns = 64;
inline constexpr int panel_row_bytes = panel_columns * int(sizeof(bfloat16));
inline constexpr int piece_bytes = 16;
inline constexpr int piece_columns = piece_bytes / int(sizeof(bfloat16));
inline constexpr int row_pieces = panel_row_bytes / piece_bytes;
inline constexpr int strip_rows = 16;
inline constexpr int strip_bytes = strip_rows * panel_row_bytes;
inline constexpr int panel_bytes = 64 * panel_row_bytes;
inline constexpr int panel_tiles = panel_columns / 8;
inline constexpr int panel_steps = panel_columns / 16;

using StripOperand = uint32_t[panel_steps][4];

enum class PanelRows { depth, columns };

inline uint32_t shared_address(const void* pointer) {
  return emulated::address_of(pointer);
}

inline uint32_t panel_offset(int row, int piece) {
  return uint32_t(row * panel_row_bytes + ((piece ^ (row & 7)) * piece_bytes));
}

// Each thread's own copies, in groups; they land out of turn.
inline void copy_piece(uint32_t target, const void* source, bool valid) {
  const std::shared_ptr<int> under_way = emulated::current().copy_groups.back();
  unsigned char* there = emulated::pointer_to(target);
  ++*under_way;
  emulated::land_later(target, [=] {
    if (valid) {
      std::memcpy(there, source, piece_bytes);
    } else {
      std::memset(there, 0, piece_bytes);
    }
    --*under_way;
  });
}
inline void commit_copies() {
  emulated::current().copy_groups.push_back(std::make_shared<int>(0));
}
template <int pending>
void wait_copies() {
  const auto& groups = emulated::current().copy_groups;
  const auto count = groups.size() - 1;
  emulated::wait_until("its copies", [&] {
    return std::all_of(groups.begin(), groups.begin() + ptrdiff_t(count - pending),
                       [](const std::shared_ptr<int>& group) { return *group == 0; });
  });
}

inline void store_piece(bfloat16* target, const uint4& piece) {
  *reinterpret_cast<uint4*>(target) = piece;
}

// The hardware's 128-byte swizzle: the piece within 128 bytes by the number of the 128 bytes.
inline uint32_t swizzled(uint32_t address) {
  return address ^ ((address >> 7 & 7) << 4);
}

inline uint32_t pack_pair(float low, float high) {
  return uint32_t{to_bfloat16(high).bits} << 16 | to_bfloat16(low).bits;
}
inline float2 unpack_pair(uint32_t pair) {
  return {to_float(bfloat16{uint16_t(pair)}), to_float(bfloat16{uint16_t(pair >> 16)})};
}
inline uint32_t multiply_pairs(uint32_t a, uint32_t b) {
  const float2 x = unpack_pair(a);
  const float2 y = unpack_pair(b);
  return pack_pair(x.x * y.x, x.y * y.y);
}

// Elements of operands that the lanes of the warp hold: of the left one at a row and a depth, of
// the right one at a column and a depth.
inline float held(const emulated::Warp& warp, int row, int depth) {
  const auto& words = warp.operands[size_t(row % 8 * 4 + depth % 8 / 2)];
  const float2 pair = unpack_pair(words[size_t(row / 8 + depth / 8 * 2)]);
  return depth % 2 == 0 ? pair.x : pair.y;
}
inline void meet_warp() {
  emulated::arrive_at(emulated::current().warp->barrier, warp_size, true, "its warp");
}
inline void multiply_tile(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  constexpr int depth = 16;
  emulated::Warp& warp = *emulated::current().warp;
  const int lane = int(threadIdx.x) % warp_size;
  float left[2][depth];
  std::copy_n(a, 4, warp.operands[size_t(lane)].begin());
  meet_warp();
  for (int k = 0; k < depth; ++k) {
    left[0][k] = held(warp, lane / 4, k);
    left[1][k] = held(warp, lane / 4 + 8, k);
  }
  meet_warp();
  warp.operands[size_t(lane)] = {b0, 0, b1, 0};
  meet_warp();
  for (int i = 0; i < 4; ++i) {
    for (int k = 0; k < depth; ++k) {
      c[i] += left[i / 2][k] * held(warp, lane % 4 * 2 + i % 2, k);
    }
  }
  meet_warp();
}

inline void load_step(uint32_t (&a)[4], uint32_t panel, int row, int step, int lane) {
  for (int i = 0; i < 4; ++i) {
    const uint32_t piece = panel + panel_offset(row + lane / 4 + i % 2 * 8, 2 * step + i / 2);
    std::memcpy(&a[i], emulated::pointer_to(piece + uint32_t(lane % 4 * 4)), sizeof(uint32_t));
  }
}

inline void to_operand(StripOperand& a, const float (*c)[4]) {
  for (int step = 0; step < panel_steps; ++step) {
    for (int i = 0; i < 4; ++i) {
      const float* pair = &c[2 * step + i / 2][i % 2 * 2];
      a[step][i] = pack_pair(pair[0], pair[1]);
    }
  }
}

inline void write_strip(unsigned char* panel, const StripOperand& a, int lane) {
  for (int step = 0; step < panel_steps; ++step) {
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i % 2 * 8;
      std::memcpy(panel + panel_offset(row, 2 * step + i / 2) + lane % 4 * 4, &a[step][i],
                  sizeof(uint32_t));
    }
  }
}

}  // namespace gsa::kernels::cuda
