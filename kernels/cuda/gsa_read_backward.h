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

#include "kernels/cuda/gsa_read_strip.h"

namespace gsa::kernels::cuda::read_chunks {

// The tiles that ds is made of, where the first side's last tile was.
template <int slots>
struct OwnTiles {
  static constexpr int panels = ReadTiles<slots>::panels;
  unsigned char* value_products;           // tril(dO V^T)
  unsigned char* key_products;             // tril(Q K^T)
  unsigned char* probabilities[panels];    // p e^b
  unsigned char* score_gradients[panels];  // scale du e^b

  __device__ OwnTiles(unsigned char* memory, unsigned char* free_stage)
      : value_products(free_stage), key_products(memory + ReadTiles<slots>::key_products) {
    score_gradients[0] = free_stage + panel_bytes;
#pragma unroll
    for (int panel = 0; panel < panels; ++panel) {
      probabilities[panel] = free_stage + (2 + panel) * panel_bytes;
    }
    if constexpr (panels > 1) {
      score_gradients[1] = memory + ReadTiles<slots>::second_gradients;
    }
  }
};

// Where a lane's pair of a tile and half lies in panels of the chunk's rows.
template <int slots>
__device__ uint32_t* pair_at(const ReadStrip<slots>& strip,
                             unsigned char* const (&panels)[ReadTiles<slots>::panels], int tile,
                             int half) {
  return reinterpret_cast<uint32_t*>(panels[tile / panel_tiles] +
                                     panel_offset(strip.token(2 * half), tile % panel_tiles) +
                                     strip.place.column * sizeof(bfloat16));
}

// e^b of the strip.
template <int slots>
__device__ void load_fade(const ReadStrip<slots>& strip, SlotAccumulator<slots>& fade) {
#pragma unroll
  for (int tile = 0; tile < ReadTiles<slots>::tiles; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float2 b = strip.decay(tile, half);
      fade[tile][2 * half] = __expf(b.x);
      fade[tile][2 * half + 1] = __expf(b.y);
    }
  }
}

// From dp (`acc`) and the kept u: the operands p e^b and scale du e^b in shared memory, and
// p dp + u du in `terms`. In chunks with steep slots p and scale du go to memory as well.
template <int slots>
__device__ void turn_backward(const ReadStrip<slots>& strip, const OwnTiles<slots>& own,
                              const SlotAccumulator<slots>& fade, const SlotAccumulator<slots>& acc,
                              SlotAccumulator<slots>& terms) {
  const float scale = strip.args.scale;
  const float inverse_scale = scale == 0.0F ? 0.0F : 1.0F / scale;
  const auto scores = [&](int tile, int half) {
    return *reinterpret_cast<const float2*>(strip.args.scores + strip.index(tile, half));
  };
  SlotAccumulator<slots>& p = terms;  // until an element's term takes its place
#pragma unroll
  for (int tile = 0; tile < ReadTiles<slots>::tiles; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float2 u = scores(tile, half);
      p[tile][2 * half] = u.x;
      p[tile][2 * half + 1] = u.y;
    }
  }
  softmax(strip, p);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float mean = 0.0F;
#pragma unroll
    for (int tile = 0; tile < ReadTiles<slots>::tiles; ++tile) {
      mean +=
          p[tile][2 * half] * acc[tile][2 * half] + p[tile][2 * half + 1] * acc[tile][2 * half + 1];
    }
    mean = quad_sum(mean);
#pragma unroll
    for (int tile = 0; tile < ReadTiles<slots>::tiles; ++tile) {
      const float2 u = scores(tile, half);
      const int at = 2 * half;
      float* probability = &p[tile][at];
      const float dp[2] = {acc[tile][at], acc[tile][at + 1]};
      const float du[2] = {scale * probability[0] * (dp[0] - mean),
                           scale * probability[1] * (dp[1] - mean)};
      const uint32_t gated_p =
          pack_pair(probability[0] * fade[tile][at], probability[1] * fade[tile][at + 1]);
      const uint32_t gated_du = pack_pair(du[0] * fade[tile][at], du[1] * fade[tile][at + 1]);
      *pair_at(strip, own.probabilities, tile, half) = gated_p;
      *pair_at(strip, own.score_gradients, tile, half) = gated_du;
      uint32_t plain_p = 0;
      uint32_t plain_du = 0;
      if (strip.any_steep) {
        plain_p = pack_pair(probability[0], probability[1]);
        plain_du = pack_pair(du[0], du[1]);
        const int64_t index = strip.index(tile, half);
        *reinterpret_cast<uint32_t*>(strip.args.probabilities + index) = plain_p;
        *reinterpret_cast<uint32_t*>(strip.args.score_gradients + index) = plain_du;
      }
      const float2 seen_p = unpack_pair(gated_p);
      const float2 seen_du = unpack_pair(gated_du);
      terms[tile][at] =
          (dp[0] * seen_p.x + inverse_scale * u.x * seen_du.x) * __fdividef(1.0F, fade[tile][at]);
      terms[tile][at + 1] = (dp[1] * seen_p.y + inverse_scale * u.y * seen_du.y) *
                            __fdividef(1.0F, fade[tile][at + 1]);
      if (strip.any_steep) {
        const float2 steep_p = unpack_pair(plain_p);
        const float2 steep_du = unpack_pair(plain_du);
        if (strip.gate.is_steep(strip.slot(tile, 0))) {
          terms[tile][at] = dp[0] * steep_p.x + inverse_scale * u.x * steep_du.x;
        }
        if (strip.gate.is_steep(strip.slot(tile, 1))) {
          terms[tile][at + 1] = dp[1] * steep_p.y + inverse_scale * u.y * steep_du.y;
        }
      }
    }
  }
}

// Stores the strip's rows of panels.
template <int slots>
__device__ void store_rows(const ReadStrip<slots>& strip,
                           unsigned char* const (&panels)[ReadTiles<slots>::panels],
                           bfloat16* target) {
#pragma unroll
  for (int panel = 0; panel < ReadTiles<slots>::panels; ++panel) {
    copy_strip_out(panels[panel] + strip.row * panel_row_bytes,
                   target + strip.base + panel * panel_columns, slots, strip_rows, panel_columns,
                   strip.lane);
  }
}

// weights = tril(gated G^T) of r e^b in `panels`, and of steep slots + r[t, m] s_j e^{b_t - b_j}
// with the plain r in memory.
template <int slots>
__device__ void read_weights(const ReadStrip<slots>& strip, uint32_t gate_panels,
                             unsigned char* const (&panels)[ReadTiles<slots>::panels],
                             const bfloat16* plain, StripOperand& weights) {
  StripAccumulator a;
  clear(a, panel_tiles);
  begin_products();
#pragma unroll
  for (int panel = 0; panel < ReadTiles<slots>::panels; ++panel) {
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

// The sum over t >= j of a[t, j] r[t, m] e^{b_t - b_j} of both sides, for the strip's rows j.
template <int slots>
__device__ __forceinline__ void fill_steep_gradients(SteepShare<slots / 8>& share, SteepPlace place,
                                                     ChunkGate<slots> gate,
                                                     const OwnTiles<slots>& own, const bfloat16* p,
                                                     const bfloat16* du) {
#pragma unroll 1
  for (int element = 0; element < slots / 2; ++element) {
    const int j = place.first + place.row(element);
    const int m = place.column(element);
    float sum = 0.0F;
    if (j < place.length && m < place.slots && gate.is_steep(m)) {
      for (int t = j; t < place.length; ++t) {
        sum += (read_element(own.value_products, t, j) * to_float(p[t * slots + m]) +
                read_element(own.key_products, t, j) * to_float(du[t * slots + m])) *
               __expf(gate.at(t, m) - gate.at(j, m));
      }
    }
    share.elements[element] = sum;
  }
}

// ds of the strip's rows in `ds`, and terms - s ds in `terms`. All warps have written their tiles.
template <int slots>
__device__ void read_own_gradients(const ReadStrip<slots>& strip, const OwnTiles<slots>& own,
                                   unsigned char* const (&gate)[ReadTiles<slots>::panels],
                                   const SlotAccumulator<slots>& fade, SlotAccumulator<slots>& ds,
                                   SlotAccumulator<slots>& terms) {
  clear(ds, ReadTiles<slots>::tiles);
  begin_products();
#pragma unroll
  for (int panel = 0; panel < ReadTiles<slots>::panels; ++panel) {
    float(*to)[4] = ds + panel * panel_tiles;
    warpgroup_panels<PanelRows::depth, PanelRows::depth>(to, shared_address(own.value_products),
                                                         shared_address(own.probabilities[panel]));
    warpgroup_panels<PanelRows::depth, PanelRows::depth>(
        to, shared_address(own.key_products), shared_address(own.score_gradients[panel]));
  }
  commit_products();
  wait_products();
  hold(ds, ReadTiles<slots>::tiles);
#pragma unroll
  for (int tile = 0; tile < ReadTiles<slots>::tiles; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float2 g = unpack_pair(*pair_at(strip, gate, tile, half));
      const int at = 2 * half;
      terms[tile][at] -= g.x * ds[tile][at];
      terms[tile][at + 1] -= g.y * ds[tile][at + 1];
      ds[tile][at] *= __fdividef(1.0F, fade[tile][at]);
      ds[tile][at + 1] *= __fdividef(1.0F, fade[tile][at + 1]);
    }
  }
  if (!strip.any_steep) {
    return;
  }
  SteepShare<ReadTiles<slots>::tiles> share;
  const int64_t chunk_base = strip.base - strip.row * slots;
  fill_steep_gradients<slots>(share, strip.steep_place(), strip.gate, own,
                              strip.args.probabilities + chunk_base,
                              strip.args.score_gradients + chunk_base);
#pragma unroll
  for (int tile = 0; tile < ReadTiles<slots>::tiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int j = strip.token(i);
      const int m = strip.slot(tile, i);
      if (j < strip.gate.length && m < strip.args.gates.slots && strip.gate.is_steep(m)) {
        ds[tile][i] = share.elements[tile * 4 + i];  // g was 0, e^-b may be infinite
        terms[tile][i] -= strip.gate.input(j, m) * share.elements[tile * 4 + i];
      }
    }
  }
}

// Sums from each of the strip's rows to its last, in place.
template <int slots>
__device__ void sum_rows(const ReadStrip<slots>& strip, SlotAccumulator<slots>& terms) {
#pragma unroll
  for (int tile = 0; tile < ReadTiles<slots>::tiles; ++tile) {
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

// own_t, and the chunk's sum of the terms, from sums over the strip. The strips' own sums go from
// warp to warp through their scratch.
template <int slots>
__device__ void store_own_gradients(const ReadStrip<slots>& strip, unsigned char* scratches,
                                    const SlotAccumulator<slots>& ds,
                                    const SlotAccumulator<slots>& sums) {
  constexpr int warps = threads / warp_size;
  const auto strip_sums = [&](int warp) {
    return reinterpret_cast<float*>(scratches + warp * ReadTiles<slots>::scratch_bytes);
  };
  const int warp = strip.row / strip_rows;
  if (strip.lane < 4) {
#pragma unroll
    for (int tile = 0; tile < ReadTiles<slots>::tiles; ++tile) {
      *reinterpret_cast<float2*>(strip_sums(warp) + strip.slot(tile, 0)) =
          make_float2(sums[tile][0], sums[tile][1]);
    }
  }
  __syncthreads();
  float* totals = strip.args.own_totals + strip.base / (chunk_rows * slots) * slots;
#pragma unroll
  for (int tile = 0; tile < ReadTiles<slots>::tiles; ++tile) {
    float2 later{0.0F, 0.0F};
#pragma unroll
    for (int i = 1; i < warps; ++i) {
      if (i > warp) {
        const float2 sum = *reinterpret_cast<const float2*>(strip_sums(i) + strip.slot(tile, 0));
        later.x += sum.x;
        later.y += sum.y;
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int at = 2 * half;
      const int row = strip.token(at);
      float own[2] = {sums[tile][at] + later.x, sums[tile][at + 1] + later.y};
      if (row == 0) {
        *reinterpret_cast<float2*>(totals + strip.slot(tile, 0)) = make_float2(own[0], own[1]);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int m = strip.slot(tile, i);
        if (row < strip.gate.length && m < strip.args.gates.slots) {
          own[i] -= __expf(strip.gate.log_alpha(row, m)) * ds[tile][at + i];
        }
      }
      *reinterpret_cast<float2*>(strip.args.own_gradients + strip.index(tile, half)) =
          make_float2(own[0], own[1]);
    }
  }
  __syncthreads();  // the scratch is free again
}

// Fetches into the L2 cache what the strip takes from memory between the products.
template <int slots>
__device__ void prefetch_scores(const ReadStrip<slots>& strip) {
  const int lines = strip_rows * slots * int(sizeof(float)) / 128;
  const auto prefetch = [](const void* address) {
    asm volatile("prefetch.global.L2 [%0];\n" ::"l"(address));
  };
  for (int i = strip.lane; i < lines; i += warp_size) {
    prefetch(strip.args.scores + strip.base + i * 32);
    prefetch(strip.gate.decay + strip.row * slots + i * 32);
  }
}

}  // namespace gsa::kernels::cuda::read_chunks
