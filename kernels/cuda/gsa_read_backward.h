// What a warp of gsa_read.cu does with its 16 tokens between the products of the backward pass:
// the softmax's gradient, what the walk needs of it, and what the chunk's own tokens give of the
// gate's gradient:
//
//   own_t = sum over i >= t of (p dp + u du - s ds)_i - alpha_t ds_t
//   ds = e^-b (tril(dO V^T)^T (p e^b) + tril(Q K^T)^T (scale du e^b))
//
// A slot's own reads and writes must cancel in that sum but for float32's rounding: both are made
// of the same rounded operands, p e^b and du e^b, g = s e^-b.
#pragma once

#include <algorithm>

#include "kernels/cuda/gsa_read_strip.h"

namespace gsa::kernels::cuda::read_chunks {

// Where a block's things are. A stage of the ring holds a panel of dO for each of the `members`
// (query heads of one group, a warpgroup each), one of v or k, and those of the states; in the
// first stage of the second side tril(Q K^T) is put in the place of dO.
template <int slots, int block_members>
struct ReadTiles {
  static constexpr int members = block_members;
  static constexpr int panels = SlotTiles<slots>::panels;
  static constexpr int threads = members * warpgroup_threads;
  static constexpr int warps = threads / warp_size;
  static constexpr int stages = 2;
  static constexpr int stage_panels = members + 1 + panels;
  static constexpr int stage_bytes = stage_panels * panel_bytes;
  static constexpr int rows = members * panel_bytes;             // in a stage: v or k
  static constexpr int states = (members + 1) * panel_bytes;     // likewise
  static constexpr int own_panels = members * (1 + 2 * panels);  // OwnTiles

  static constexpr int gate = 0;  // G
  static constexpr int fade = gate + panels * panel_bytes;
  // Own tiles that find no place in a stage.
  static constexpr int more_tiles = fade + ChunkFade<slots>::bytes;
  static constexpr int ring = more_tiles + std::max(0, own_panels - stage_panels) * panel_bytes;
  // A strip for each panel of slots, by warp: where tril(dO V^T) has been, if that is enough.
  static constexpr bool has_scratch = panels > 1;
  static constexpr int scratch = ring + stages * stage_bytes;
  static constexpr int scratch_bytes = panels * strip_bytes;
  static constexpr int sums = scratch + (has_scratch ? warps * scratch_bytes : 0);
  static constexpr int memory_bytes = sums + warps * slots * int(sizeof(float));
  // The warps' scratch for the output lies where G, e^b and own tiles have been.
  static_assert(warps * strip_bytes <= ring);
  static_assert(members == 1 || ChunkFade<slots>::bytes >= chunk_rows * slots * int(sizeof(float)));
  static constexpr int resident_blocks = members == 1 && panels == 1 ? 3 : 2;
  // Whether there are registers for what u is made of before the first side's tiles have come.
  static constexpr bool late_scores = members > 1;
};

// The tiles that ds of a member is made of; all but one where the first side's last tile was.
template <int slots>
struct OwnTiles {
  static constexpr int panels = SlotTiles<slots>::panels;
  unsigned char* value_products;           // tril(dO V^T)
  unsigned char* key_products;             // tril(Q K^T)
  unsigned char* probabilities[panels];    // p e^b
  unsigned char* score_gradients[panels];  // scale du e^b

  template <typename Tiles>
  __device__ OwnTiles(Tiles /*tiles*/, unsigned char* memory, unsigned char* free_stage,
                      unsigned char* next_stage, int member)
      : value_products(free_stage + member * panel_bytes),
        key_products(next_stage + member * panel_bytes) {
    const auto panel_at = [&](int kind) {
      const int panel = kind * Tiles::members + member;
      return panel < Tiles::stage_panels
                 ? free_stage + panel * panel_bytes
                 : memory + Tiles::more_tiles + (panel - Tiles::stage_panels) * panel_bytes;
    };
#pragma unroll
    for (int panel = 0; panel < panels; ++panel) {
      probabilities[panel] = panel_at(1 + panel);
      score_gradients[panel] = panel_at(1 + panels + panel);
    }
  }
};

// Tiles whose pairs go to shared memory at once.
inline constexpr int tiles_at_once = 4;

// Writes the pairs of a half of a lane's rows that it has of tiles [tile, tile + tiles_at_once) to
// the strip's rows of panels: lanes 8 i to 8 i + 7 have the addresses of the i-th's rows.
template <int slots>
__device__ void write_half(const ReadStrip<slots>& strip,
                           unsigned char* const (&panels)[SlotTiles<slots>::panels], int half,
                           int tile, const uint32_t (&pairs)[tiles_at_once]) {
  const uint32_t rows = shared_address(panels[tile / panel_tiles]) +
                        panel_offset(strip.row + half * 8 + strip.lane % 8, strip.lane / 8);
  store_matrices(turn_bits(rows, tile % panel_tiles * piece_bytes), pairs[0], pairs[1], pairs[2],
                 pairs[3]);
}

// What the forward pass has kept of u.
template <int slots>
struct KeptScores {
  StripOperand key_products;
  StateScores<slots> state_scores;

  __device__ void load_products(const ReadStrip<slots>& strip) {
#pragma unroll
    for (int step = 0; step < panel_steps; ++step) {
      load_lanes(strip.kept_products(), step, key_products[step], strip.lane);
    }
  }
  __device__ void load_scores(const ReadStrip<slots>& strip) {
#pragma unroll
    for (int pair = 0; pair < SlotTiles<slots>::tiles / 2; ++pair) {
      load_lanes(strip.kept_scores(), pair, state_scores[pair], strip.lane);
    }
  }
  __device__ static void prefetch(const ReadStrip<slots>& strip) {
    prefetch_lanes<strip_bytes>(strip.kept_products(), strip.lane);
    prefetch_lanes<strip_rows * slots * 2>(strip.kept_scores(), strip.lane);
  }
};

// u of the strip, made as the forward pass has: its own tokens' part anew, the state's as it was
// kept. tril(Q K^T) goes to its tile.
template <bool late, int slots>
__device__ void find_scores(const ReadStrip<slots>& strip, const OwnTiles<slots>& own,
                            uint32_t gate_panels, KeptScores<slots>& kept,
                            SlotAccumulator<slots>& u) {
  if constexpr (late) {
    kept.load_scores(strip);
  }
  clear(u, SlotTiles<slots>::tiles);
  begin_products();
#pragma unroll
  for (int panel = 0; panel < SlotTiles<slots>::panels; ++panel) {
    warpgroup_panel<PanelRows::depth>(u + panel * panel_tiles, kept.key_products,
                                      gate_panels + panel * panel_bytes);
  }
  commit_products();
  wait_products();
  hold(u, SlotTiles<slots>::tiles);
  unsigned char* products = own.key_products + strip.row * panel_row_bytes;
  write_strip(products, kept.key_products, strip.lane);
  apply_gate(strip, products, u);
#pragma unroll
  for (int tile = 0; tile < SlotTiles<slots>::tiles; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float2 state = unpack_half_pair(kept.state_scores[tile / 2][tile % 2 * 2 + half]);
      u[tile][2 * half] = strip.args.scale * u[tile][2 * half] + state.x;
      u[tile][2 * half + 1] = strip.args.scale * u[tile][2 * half + 1] + state.y;
    }
  }
}

// In chunks with steep slots: p and scale du to memory, and p dp + u du made of those; of the half
// of a lane's rows.
template <int slots>
__device__ void store_plain(const ReadStrip<slots>& strip, const SlotAccumulator<slots>& scores,
                            const SlotAccumulator<slots>& dp, const SlotAccumulator<slots>& p,
                            float mean, int half, float* steep_terms) {
  const float scale = strip.args.scale;
  const float inverse_scale = scale == 0.0F ? 0.0F : fast_reciprocal(scale);
  const int at = 2 * half;
#pragma unroll
  for (int tile = 0; tile < SlotTiles<slots>::tiles; ++tile) {
    const uint32_t plain_p = pack_pair(p[tile][at], p[tile][at + 1]);
    const uint32_t plain_du = pack_pair(scale * p[tile][at] * (dp[tile][at] - mean),
                                        scale * p[tile][at + 1] * (dp[tile][at + 1] - mean));
    const int64_t index = strip.index(tile, half);
    *reinterpret_cast<uint32_t*>(strip.args.probabilities + index) = plain_p;
    *reinterpret_cast<uint32_t*>(strip.args.score_gradients + index) = plain_du;
    const float2 seen_p = unpack_pair(plain_p);
    const float2 seen_du = unpack_pair(plain_du);
    steep_terms[tile * 4 + at] =
        dp[tile][at] * seen_p.x + inverse_scale * scores[tile][at] * seen_du.x;
    steep_terms[tile * 4 + at + 1] =
        dp[tile][at + 1] * seen_p.y + inverse_scale * scores[tile][at + 1] * seen_du.y;
  }
}

// In steep slots, the terms that store_plain has left.
template <int slots>
__device__ void take_steep(const ReadStrip<slots>& strip, const float* steep_terms,
                           SlotAccumulator<slots>& terms) {
#pragma unroll
  for (int tile = 0; tile < SlotTiles<slots>::tiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      terms[tile][i] = strip.is_steep(tile, i) ? steep_terms[tile * 4 + i] : terms[tile][i];
    }
  }
}

// From dp (`acc`) and u: the operands p e^b and scale du e^b in shared memory, and p dp + u du in
// `terms`; half of a lane's rows after the other, for want of registers. In chunks with steep slots
// p and scale du go to memory as well.
template <int slots>
__device__ void turn_backward(const ReadStrip<slots>& strip, const OwnTiles<slots>& own,
                              const SlotAccumulator<slots>& scores,
                              const SlotAccumulator<slots>& acc, SlotAccumulator<slots>& terms) {
  const float scale = strip.args.scale;
  const float inverse_scale = scale == 0.0F ? 0.0F : fast_reciprocal(scale);
  SlotAccumulator<slots>& p = terms;  // until an element's term takes its place
  SteepShare<SlotTiles<slots>::tiles> steep_terms;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int at = 2 * half;
#pragma unroll
    for (int tile = 0; tile < SlotTiles<slots>::tiles; ++tile) {
      p[tile][at] = scores[tile][at];
      p[tile][at + 1] = scores[tile][at + 1];
    }
    softmax(strip, p, half);
    float mean = 0.0F;
#pragma unroll
    for (int tile = 0; tile < SlotTiles<slots>::tiles; ++tile) {
      mean += p[tile][at] * acc[tile][at] + p[tile][at + 1] * acc[tile][at + 1];
    }
    mean = quad_sum(mean);
    uint32_t gated_p[tiles_at_once];
    uint32_t gated_du[tiles_at_once];
    if (strip.any_steep) {
      store_plain(strip, scores, acc, p, mean, half, steep_terms.kept());
    }
#pragma unroll
    for (int tile = 0; tile < SlotTiles<slots>::tiles; ++tile) {
      const float2 u = make_float2(scores[tile][at], scores[tile][at + 1]);
      const float2 fade = strip.fade(tile, half);
      const float dp[2] = {acc[tile][at], acc[tile][at + 1]};
      const float2 gated{p[tile][at] * fade.x, p[tile][at + 1] * fade.y};
      gated_p[tile % tiles_at_once] = pack_pair(gated.x, gated.y);
      gated_du[tile % tiles_at_once] =
          pack_pair(scale * gated.x * (dp[0] - mean), scale * gated.y * (dp[1] - mean));
      const float2 seen_p = unpack_pair(gated_p[tile % tiles_at_once]);
      const float2 seen_du = unpack_pair(gated_du[tile % tiles_at_once]);
      terms[tile][at] =
          (dp[0] * seen_p.x + inverse_scale * u.x * seen_du.x) * fast_reciprocal(fade.x);
      terms[tile][at + 1] =
          (dp[1] * seen_p.y + inverse_scale * u.y * seen_du.y) * fast_reciprocal(fade.y);
      if (tile % tiles_at_once == tiles_at_once - 1) {
        write_half(strip, own.probabilities, half, tile - tiles_at_once + 1, gated_p);
        write_half(strip, own.score_gradients, half, tile - tiles_at_once + 1, gated_du);
      }
    }
  }
  if (strip.any_steep) {
    take_steep(strip, steep_terms.kept(), terms);
  }
}

// Stores the strip's rows of panels.
template <int slots>
__device__ void store_rows(const ReadStrip<slots>& strip,
                           unsigned char* const (&panels)[SlotTiles<slots>::panels],
                           bfloat16* target) {
#pragma unroll
  for (int panel = 0; panel < SlotTiles<slots>::panels; ++panel) {
    copy_strip_out(panels[panel] + strip.row * panel_row_bytes,
                   target + strip.base + panel * panel_columns, slots, strip_rows, panel_columns,
                   strip.lane);
  }
}

// weights = tril(gated G^T) of r e^b in `panels`, and of steep slots + r[t, m] s_j e^{b_t - b_j}
// with the plain r in memory.
template <int slots>
__device__ void read_weights(const ReadStrip<slots>& strip, uint32_t gate_panels,
                             unsigned char* const (&panels)[SlotTiles<slots>::panels],
                             const bfloat16* plain, StripOperand& weights) {
  StripAccumulator a;
  clear(a, panel_tiles);
  begin_products();
#pragma unroll
  for (int panel = 0; panel < SlotTiles<slots>::panels; ++panel) {
    warpgroup_panels<PanelRows::columns, PanelRows::columns>(a, shared_address(panels[panel]),
                                                             gate_panels + panel * panel_bytes);
  }
  commit_products();
  wait_products();
  hold(a, panel_tiles);
  mask_later(strip, a);
  if (strip.any_steep) {
    for (int i = strip.lane; i < strip_rows * slots; i += warp_size) {
      const int row = i / slots;
      const int m = i % slots;
      unsigned char* piece = strip.scratch + m / panel_columns * strip_bytes +
                             panel_offset(row, m % panel_columns / piece_columns);
      reinterpret_cast<bfloat16*>(piece)[m % piece_columns] = plain[strip.base + i];
    }
    __syncwarp();
    SteepShare<panel_tiles> share;
    add_up_steep_weights<slots>(share, strip.steep_place(), strip.gate, strip.scratch);
    share.add_to(a);
    __syncwarp();
  }
  to_operand(weights, a);
}

// In steep slots ds is the sum over t >= j of a[t, j] r[t, m] e^{b_t - b_j} of both sides: for the
// strip's rows j, s ds and alpha ds.
template <int slots>
__device__ __forceinline__ void fill_steep_gradients(SteepShare<slots / 8>& written,
                                                     SteepShare<slots / 8>& kept, SteepPlace place,
                                                     ChunkGate<slots> gate,
                                                     const OwnTiles<slots>& own, const bfloat16* p,
                                                     const bfloat16* du) {
#pragma unroll 1
  for (int element = 0; element < slots / 2; ++element) {
    const int j = place.first + place.row(element);
    const int m = place.column(element);
    float s_ds = 0.0F;
    float alpha_ds = 0.0F;
    if (j < place.length && m < place.slots && gate.is_steep(m)) {
      float sum = 0.0F;
      for (int t = j; t < place.length; ++t) {
        sum += (read_element(own.value_products, t, j) * to_float(p[t * slots + m]) +
                read_element(own.key_products, t, j) * to_float(du[t * slots + m])) *
               __expf(gate.at(t, m) - gate.at(j, m));
      }
      const float log_alpha = gate.log_alpha(j, m);
      s_ds = slot_input(log_alpha) * sum;
      alpha_ds = __expf(log_alpha) * sum;
    }
    written.elements[element] = s_ds;
    kept.elements[element] = alpha_ds;
  }
}

// ds of the strip's rows in `ds`, and terms - s ds in `terms`. All warps have written their tiles.
// Of steep slots ds is zero there, and alpha ds is in `steep_kept`.
template <int slots>
__device__ void read_own_gradients(const ReadStrip<slots>& strip, const OwnTiles<slots>& own,
                                   unsigned char* const (&gate)[SlotTiles<slots>::panels],
                                   SlotAccumulator<slots>& ds, SlotAccumulator<slots>& terms,
                                   SteepShare<SlotTiles<slots>::tiles>& steep_kept) {
  clear(ds, SlotTiles<slots>::tiles);
  hold(ds, SlotTiles<slots>::tiles);
  begin_products();
#pragma unroll
  for (int panel = 0; panel < SlotTiles<slots>::panels; ++panel) {
    float(*to)[4] = ds + panel * panel_tiles;
    warpgroup_panels<PanelRows::depth, PanelRows::depth>(to, shared_address(own.value_products),
                                                         shared_address(own.probabilities[panel]));
    warpgroup_panels<PanelRows::depth, PanelRows::depth>(
        to, shared_address(own.key_products), shared_address(own.score_gradients[panel]));
  }
  commit_products();
  wait_products();
  hold(ds, SlotTiles<slots>::tiles);
  uint32_t inputs[4];  // G of two tiles
#pragma unroll
  for (int tile = 0; tile < SlotTiles<slots>::tiles; ++tile) {
    if (tile % 2 == 0) {
      load_step(inputs, shared_address(gate[tile / panel_tiles]), strip.row, tile % panel_tiles / 2,
                strip.lane);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float2 g = unpack_pair(inputs[tile % 2 * 2 + half]);
      const int at = 2 * half;
      terms[tile][at] -= g.x * ds[tile][at];
      terms[tile][at + 1] -= g.y * ds[tile][at + 1];
      const float2 fade = strip.fade(tile, half);
      ds[tile][at] *= fast_reciprocal(fade.x);
      ds[tile][at + 1] *= fast_reciprocal(fade.y);
    }
  }
  if (!strip.any_steep) {
    return;
  }
  SteepShare<SlotTiles<slots>::tiles> written;
  const int64_t chunk_base = strip.base - strip.row * slots;
  fill_steep_gradients<slots>(written, steep_kept, strip.steep_place(), strip.gate, own,
                              strip.args.probabilities + chunk_base,
                              strip.args.score_gradients + chunk_base);
#pragma unroll
  for (int tile = 0; tile < SlotTiles<slots>::tiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      ds[tile][i] = strip.is_steep(tile, i) ? 0.0F : ds[tile][i];
      terms[tile][i] -= written.elements[tile * 4 + i];
    }
  }
}

// Sums from each of the strip's rows to its last, in place.
template <int slots>
__device__ void sum_rows(const ReadStrip<slots>& strip, SlotAccumulator<slots>& terms) {
#pragma unroll
  for (int tile = 0; tile < SlotTiles<slots>::tiles; ++tile) {
#pragma unroll
    for (int step = 4; step < warp_size; step *= 2) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float later = __shfl_down_sync(~0U, terms[tile][i], step);
        terms[tile][i] += strip.lane + step < warp_size ? later : 0.0F;
      }
    }
    // Rows 8 to 15 come after rows 0 to 7.
    terms[tile][0] += __shfl_sync(~0U, terms[tile][2], strip.lane % 4);
    terms[tile][1] += __shfl_sync(~0U, terms[tile][3], strip.lane % 4);
  }
}

// alpha of the strip's rows that a lane has of a tile and half, as it follows from e^b; not of
// steep slots. A reference that is not at its limit is b_end (GsaGates): b_0 = log alpha_0 less
// that.
template <int slots>
__device__ float2 gate_of(const ReadStrip<slots>& strip, int tile, int half) {
  const int row = strip.token(2 * half);
  const float2 fade = strip.fade(tile, half);
  const float2 before = strip.fade_at(row == 0 ? chunk_rows - 1 : row - 1, tile);
  return row == 0
             ? make_float2(fade.x * before.x, fade.y * before.y)
             : make_float2(fade.x * fast_reciprocal(before.x), fade.y * fast_reciprocal(before.y));
}

// Hands the warps' sums over their strips to the others of the query head, `all_sums` [warps of the
// block, slots]: `sums` goes on to the chunk's last row.
template <int members, int slots>
__device__ void sum_strips(const ReadStrip<slots>& strip, float* all_sums,
                           SlotAccumulator<slots>& sums) {
  constexpr int warps = warpgroup_threads / warp_size;
  float* member_sums = all_sums + strip.member * warps * slots;
  const int warp = strip.row / strip_rows;
  if (strip.lane < 4) {
#pragma unroll
    for (int tile = 0; tile < SlotTiles<slots>::tiles; ++tile) {
      *reinterpret_cast<float2*>(member_sums + warp * slots + strip.slot(tile, 0)) =
          make_float2(sums[tile][0], sums[tile][1]);
    }
  }
  strip.template sync_member<members>();
#pragma unroll
  for (int tile = 0; tile < SlotTiles<slots>::tiles; ++tile) {
#pragma unroll
    for (int i = 1; i < warps; ++i) {
      if (i > warp) {
        const float2 later =
            *reinterpret_cast<const float2*>(member_sums + i * slots + strip.slot(tile, 0));
        sums[tile][0] += later.x;
        sums[tile][1] += later.y;
        sums[tile][2] += later.x;
        sums[tile][3] += later.y;
      }
    }
  }
}

// own_t in `own`, from the sums and ds.
template <int slots>
__device__ void make_own_gradients(const ReadStrip<slots>& strip, const SlotAccumulator<slots>& ds,
                                   const SteepShare<SlotTiles<slots>::tiles>& steep_kept,
                                   SlotAccumulator<slots>& own) {
#pragma unroll
  for (int tile = 0; tile < SlotTiles<slots>::tiles; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float2 alpha = gate_of(strip, tile, half);
      own[tile][2 * half] -= alpha.x * ds[tile][2 * half];
      own[tile][2 * half + 1] -= alpha.y * ds[tile][2 * half + 1];
    }
  }
  if (strip.any_steep) {
#pragma unroll
    for (int tile = 0; tile < SlotTiles<slots>::tiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        own[tile][i] -= steep_kept.elements[tile * 4 + i];
      }
    }
  }
}

// The second member of a block hands its own_t to the first, in the place of e^b.
template <int slots>
__device__ void hand_gradients(const ReadStrip<slots>& strip, const SlotAccumulator<slots>& own) {
#pragma unroll
  for (int tile = 0; tile < SlotTiles<slots>::tiles; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      store_pair(strip.fade_address(strip.token(2 * half), tile),
                 make_float2(own[tile][2 * half], own[tile][2 * half + 1]));
    }
  }
}
template <int slots>
__device__ void add_handed(const ReadStrip<slots>& strip, SlotAccumulator<slots>& own) {
#pragma unroll
  for (int tile = 0; tile < SlotTiles<slots>::tiles; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float2 other = load_pair(strip.fade_address(strip.token(2 * half), tile));
      own[tile][2 * half] += other.x;
      own[tile][2 * half + 1] += other.y;
    }
  }
}

// Stores own_t to a tensor [gsa_chunk, slots].
template <int slots>
__device__ void store_own_gradients(const ReadStrip<slots>& strip,
                                    const SlotAccumulator<slots>& own, float* target) {
#pragma unroll
  for (int tile = 0; tile < SlotTiles<slots>::tiles; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      *reinterpret_cast<float2*>(target + strip.token(2 * half) * slots + strip.slot(tile, 0)) =
          make_float2(own[tile][2 * half], own[tile][2 * half + 1]);
    }
  }
}

}  // namespace gsa::kernels::cuda::read_chunks
