// The gathering warps of gsa_write.cu: Y X^T and X G^T over all dimensions, and from them ds.
#pragma once

#include "kernels/cuda/gsa_write_block.h"

namespace gsa::kernels::cuda::write_chunks {

// ds of the steep slots: sum over t >= j of a[j, t] r[t, m] e^{b_t - b_j}, a warp's 16 rows j of a,
// added to `gradients`; and s ds, added to `terms`. Not inlined: steep slots are rare.
template <int slots>
__device__ __noinline__ void add_steep_gradients(ChunkGate<slots> gate, const bfloat16* r,
                                                 const unsigned char* a, int first,
                                                 int existing_slots, int lane, float* gradients,
                                                 float* terms) {
  const int row = lane % strip_rows;
  const int j = first + row;
  for (int m = 0; m < existing_slots; ++m) {
    if (!gate.is_steep(m)) {
      continue;
    }
    float sum = 0.0F;
    for (int t = j + lane / strip_rows; t < gate.length; t += 2) {
      sum += read_element(a, row, t) * to_float(r[t * slots + m]) *
             __expf(gate.at(t, m) - gate.at(j, m));
    }
    sum += __shfl_xor_sync(~0U, sum, strip_rows);
    if (lane < strip_rows && j < gate.length) {
      gradients[j * WriteTiles<slots>::gradient_stride + m] += sum;
      terms[j * WriteTiles<slots>::gradient_stride + m] += gate.input(j, m) * sum;
    }
  }
  __syncwarp();
}

// Adds two slots' values, summed over the 16 tokens of a warp, to `sums`.
__device__ inline void add_over_tokens(float (&by_slot)[2], int lane, float* sums) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int step = 4; step < warp_size; step *= 2) {
      by_slot[i] += __shfl_xor_sync(~0U, by_slot[i], step);
    }
    if (lane < 4) {
      sums[i] += by_slot[i];
    }
  }
}

// What add_tile needs of the gate for some tiles of a lane's accumulators, loaded together: waiting
// for each by itself would take longer than all products.
inline constexpr int loaded_tiles = 4;
template <int slots>
struct GateTiles {
  float2 end[loaded_tiles];
  float2 decay[loaded_tiles][2];
  uint32_t key_gate[loaded_tiles][2];

  __device__ void load(const WriteBlock<slots>& block, const bfloat16* key_gates, int first) {
#pragma unroll
    for (int i = 0; i < loaded_tiles; ++i) {
      const int m = block.column(first + i, 0);
      end[i] =
          __ldg(reinterpret_cast<const float2*>(block.gate.decay + (chunk_rows - 1) * slots + m));
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int at = block.token(2 * half) * slots + m;
        decay[i][half] = __ldg(reinterpret_cast<const float2*>(block.gate.decay + at));
        key_gate[i][half] = __ldg(reinterpret_cast<const uint32_t*>(key_gates + at));
      }
    }
  }
};

// Adds one tile of ds, s ds and sum_j w_j (X G^T)_j to the block's sums; `index` is its place in
// `loaded`, `own` what the chunk's own tokens read, `later` what came after.
template <int slots>
__device__ void add_tile(const WriteBlock<slots>& block, const GateTiles<slots>& loaded, int tile,
                         int index, const float (&own)[4], const float (&later)[4]) {
  using Tiles = WriteTiles<slots>;
  float* gradients = block.floats(Tiles::slot_gradients);
  float* terms = block.floats(Tiles::gate_terms);
  const unsigned char* end_gate =
      block.memory + Tiles::end_key_gate + tile / panel_tiles * panel_bytes;
  const int m = block.column(tile, 0);  // and m + 1
  const float end[2] = {loaded.end[index].x, loaded.end[index].y};
  float by_slot[2] = {0.0F, 0.0F};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int j = block.token(2 * half);
    const float2 g_pair = unpack_pair(loaded.key_gate[index][half]);
    const float2 w_pair = unpack_pair(*reinterpret_cast<const uint32_t*>(
        end_gate + panel_offset(j, m % panel_columns / piece_columns) +
        m % piece_columns * sizeof(bfloat16)));
    const float b[2] = {loaded.decay[index][half].x, loaded.decay[index][half].y};
    const float g[2] = {g_pair.x, g_pair.y};
    const float w[2] = {w_pair.x, w_pair.y};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int element = 2 * half + i;
      const bool is_steep = end[i] < -GsaGates::factor_limit;  // g is 0, e^-b may be infinite
      const int at = j * Tiles::gradient_stride + m + i;
      gradients[at] +=
          __expf(end[i] - b[i]) * later[element] + (is_steep ? 0.0F : __expf(-b[i]) * own[element]);
      terms[at] += w[i] * later[element] + (is_steep ? 0.0F : g[i] * own[element]);
      by_slot[i] += w[i] * later[element];
    }
  }
  add_over_tokens(by_slot, block.lane, block.floats(Tiles::written_sums) + block.warp * slots + m);
}

// Adds one side and query head to the block's sums: ds, s ds and sum_j w_j (X G^T)_j. `products` is
// tril(Y X^T)^T, `from_later` is X G^T. s ds is made of the rounded g and w that the states and the
// scores were made with (see gate_product in gsa_read.cu).
template <int slots>
__device__ void add_slot_gradients(const WriteBlock<slots>& block, const GsaWriteSide& side,
                                   const StripOperand& products,
                                   const float (&from_later)[WriteTiles<slots>::tiles][4],
                                   unsigned char* scratch) {
  using Tiles = WriteTiles<slots>;
  float* gradients = block.floats(Tiles::slot_gradients);
  float* terms = block.floats(Tiles::gate_terms);
  const bfloat16* key_gate =
      block.args.gates.key_gate +
      (block.chunk * block.args.gates.heads + block.head) * chunk_rows * slots;
  if (block.any_steep) {
    write_strip(scratch, products, block.lane);
    __syncwarp();
    add_steep_gradients<slots>(block.gate, side.operands + block.slot_base(), scratch, block.row,
                               block.args.gates.slots, block.lane, gradients, terms);
  }
#pragma unroll
  for (int first = 0; first < Tiles::tiles; first += loaded_tiles) {
    GateTiles<slots> loaded;
    loaded.load(block, key_gate, first);
#pragma unroll
    for (int tile = first; tile < first + loaded_tiles; tile += 2) {
      const int panel = tile / panel_tiles;
      float acc[2][4];
      clear(acc, 2);
#pragma unroll
      for (int step = 0; step < panel_steps; ++step) {
        multiply_pair<PanelRows::depth>(
            acc, products[step], block.shared + uint32_t(Tiles::operand + panel * panel_bytes),
            step, tile % panel_tiles / 2, block.lane);
      }
      add_tile(block, loaded, tile, tile - first, acc[0], from_later[tile]);
      add_tile(block, loaded, tile + 1, tile + 1 - first, acc[1], from_later[tile + 1]);
    }
  }
}

template <int slots>
__device__ void gather(const WriteBlock<slots>& block, const GsaWriteSide& side,
                       TileFetch<slots>& fetch) {
  using Tiles = WriteTiles<slots>;
  StripAccumulator products;
  float from_later[Tiles::tiles][4];
  clear(products, panel_tiles);
  clear(from_later, Tiles::tiles);
  const int tiles = side.padded_dim / panel_columns;
#pragma unroll 1
  for (int tile = 0; tile < tiles; ++tile) {
    wait_copies<stages - 2>();
    fetch.activate(block, side, tile);
    sync_roles();
    fetch.fetch(block, side);
    const uint32_t stage = block.stage(tile);
#pragma unroll
    for (int step = 0; step < panel_steps; ++step) {
      uint32_t x[4];
      load_step(x, stage, block.row, step, block.lane);
      multiply_step<PanelRows::columns>(products, x, stage + panel_bytes, step, block.lane);
#pragma unroll
      for (int panel = 0; panel < Tiles::panels; ++panel) {
        multiply_step<PanelRows::columns>(from_later + panel * panel_tiles, x,
                                          stage + (2 + panel) * panel_bytes, step, block.lane);
      }
    }
  }
  mask_earlier(block, products);
  StripOperand masked;
  to_operand(masked, products);
  // The stage before the last tile's is free: its tile was used before the last barrier.
  unsigned char* scratch =
      block.memory + (block.stage(tiles + stages - 2) - block.shared) + block.warp * strip_bytes;
  add_slot_gradients(block, side, masked, from_later, scratch);
}

}  // namespace gsa::kernels::cuda::write_chunks
