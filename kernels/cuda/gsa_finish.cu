// The gate's gradient, from what the backward read-out and the walk leave, and sums over groups of
// query heads.
//
//   d log alpha_t = own_t + L - sum over i >= t in the chunk of w_i F_i
//                   - alpha_t e^(b_end - b_t) F_t
//
//   own: what the chunk's own tokens give (gsa_read_backward.h)
//
//   F = X G^T of both sides: what later chunks add to the gradients of the slots' inputs
//
//   L = sum over later chunks up to an anchor of (own_total - sum_i w_i F_i) + E
//
//   E = e^{b_end} sum_d S G + sum_j w_j F_j, the state at the anchor's end times its gradient
//
// The sum over tokens starts anew at anchors, the ends of every `anchor_chunks` chunks: rounding
// does not pile up along a sequence. A block does the chunks up to one anchor, 16 slots of one
// key/value head; a thread has two slots and 8 tokens, all of whose numbers it asks for before it
// uses the first. At B8 T2048 H4 M64: 1,024 blocks; 76 MB read, 17 MB written.
#include "kernels/cuda/gsa_kernels.h"

namespace gsa::kernels::cuda {
namespace {

constexpr int run_rows = 8;  // tokens a thread
constexpr int chunk_runs = chunk_rows / run_rows;
constexpr int anchor_chunks = int(GsaWalkPlan::anchor_chunks);
constexpr int runs = chunk_runs * anchor_chunks;
constexpr int block_slots = 16;
constexpr int block_pairs = block_slots / 2;
constexpr int finish_threads = runs * block_pairs;
constexpr int anchor_rows = chunk_rows * anchor_chunks;

// Where a thread is: two slots, and tokens [row, row + run_rows) of a chunk.
template <int slots>
struct FinishPlace {
  int64_t chunk;
  int token;  // the first
  int head;
  int slot;
  int row;
  int rows;  // that exist, from `row` on; 0 in what is past the sequence's end

  // Of a tensor [chunks, heads, gsa_chunk, slots].
  __device__ int64_t by_slot(int64_t heads, int64_t of_head) const {
    return ((chunk * heads + of_head) * chunk_rows + row) * slots + slot;
  }
};

// Which part of the work a block has. Neighbours have neighbouring slots, then heads: what lies
// side by side in memory is asked for at the same time.
template <int slots>
struct BlockPlace {
  static constexpr int groups = slots / block_slots;
  int group;  // of slots
  int head;
  int anchor;

  __device__ explicit BlockPlace(int heads)
      : group(static_cast<int>(blockIdx.x) % groups),
        head(static_cast<int>(blockIdx.x) / groups % heads),
        anchor(static_cast<int>(blockIdx.x) / groups / heads) {}
};

__device__ __forceinline__ float2 load_two(const float* source) {
  return __ldg(reinterpret_cast<const float2*>(source));
}
__device__ __forceinline__ void add(float2& sum, float2 x) {
  sum.x += x.x;
  sum.y += x.y;
}

// What the first of tensors [gsa_chunk, slots] holds for the thread's tokens, and the sum with the
// other of `parts`.
template <int slots>
__device__ __forceinline__ void load_rows(const float* source, float2 (&rows)[run_rows]) {
#pragma unroll
  for (int i = 0; i < run_rows; ++i) {
    rows[i] = load_two(source + i * slots);
  }
}
template <int slots>
__device__ __forceinline__ void add_others(const float* source, int parts,
                                           float2 (&sums)[run_rows]) {
#pragma unroll 1
  for (int part = 1; part < parts; ++part) {
    source += chunk_rows * slots;
#pragma unroll
    for (int i = 0; i < run_rows; ++i) {
      add(sums[i], load_two(source + i * slots));
    }
  }
}

// The sum over part `first`, first + runs, ... of `parts` tensors [slots]: a thread's share.
template <int slots>
__device__ __forceinline__ float2 share_of_parts(const float* source, int first, int step,
                                                 int parts) {
  float2 sum{0.0F, 0.0F};
  if (first < parts) {
    sum = load_two(source + first * slots);
  }
#pragma unroll 1
  for (int part = first + step; part < parts; part += step) {
    add(sum, load_two(source + part * slots));
  }
  return sum;
}

// What a thread has of the gate: b before each of its tokens, the weight w of each.
template <int slots>
struct FinishGate {
  float2 before[run_rows];
  uint32_t weights[run_rows];
  float2 end;  // b at the chunk's end

  __device__ __forceinline__ FinishGate(const GsaFinishArgs& args, const FinishPlace<slots>& at) {
    const int64_t index = at.by_slot(args.gates.heads, at.head);
    const float* decay = args.gates.decay + index;
    end = load_two(decay + (chunk_rows - 1 - at.row) * slots);
#pragma unroll
    for (int i = 0; i < run_rows; ++i) {
      before[i] = load_two(decay + (at.row + i == 0 ? 0 : i - 1) * slots);
      weights[i] =
          __ldg(reinterpret_cast<const uint32_t*>(args.gates.end_key_gate + index + i * slots));
    }
  }
  // alpha_t e^(b_end - b_t) of the i-th token. Before a chunk's first token b is zero, less the
  // reference (GsaGates).
  __device__ float2 fade(int i, bool starts_chunk) const {
    const float2 b = i > 0 || !starts_chunk ? before[i]
                                            : make_float2(-fmaxf(end.x, -GsaGates::factor_limit),
                                                          -fmaxf(end.y, -GsaGates::factor_limit));
    return make_float2(__expf(fminf(end.x - b.x, 0.0F)), __expf(fminf(end.y - b.y, 0.0F)));
  }
};

// The logits of the thread's tokens, and the gradients of those from log alpha's.
struct FinishLogits {
  uint32_t pairs[run_rows];

  template <int slots>
  __device__ __forceinline__ void load(const GsaFinishArgs& args, const FinishPlace<slots>& at) {
    const HeadRows<const bfloat16>& logits = args.gates.rows.logits;
#pragma unroll
    for (int i = 0; i < run_rows; ++i) {
      const bfloat16* pair = logits.at(at.token + i, at.head) + at.slot;
      pairs[i] = 0;
      if (i < at.rows) {
        pairs[i] = uint32_t(__ldg(reinterpret_cast<const uint16_t*>(pair))) |
                   uint32_t(__ldg(reinterpret_cast<const uint16_t*>(pair + 1))) << 16;
      }
    }
  }
  __device__ float2 gradient(const GsaFinishArgs& args, int i, float2 of_log_alpha) const {
    const float2 logit = unpack_pair(pairs[i]);
    const float factor = args.gates.rows.inverse_normalizer;
    return make_float2(of_log_alpha.x * sigmoid(-logit.x) * factor,
                       of_log_alpha.y * sigmoid(-logit.y) * factor);
  }
};

// The gradient of log alpha of the thread's i-th token, or in projected mode of its logit.
template <int slots>
__device__ __forceinline__ void store_gradient(const GsaFinishArgs& args,
                                               const FinishPlace<slots>& at,
                                               const FinishLogits& logits, int i, float2 gradient) {
  if (args.gradient.data != nullptr) {
    float* target = args.gradient.at(at.token + i, at.head) + at.slot;
    target[0] = gradient.x;
    target[1] = gradient.y;
    return;
  }
  const float2 of_logit = logits.gradient(args, i, gradient);
  bfloat16* target = args.logit_gradient.at(at.token + i, at.head) + at.slot;
  target[0] = from_float<bfloat16>(of_logit.x);
  target[1] = from_float<bfloat16>(of_logit.y);
}

// What the threads of a block tell each other, by run of tokens and pair of slots.
struct FinishSums {
  float2 written[runs][block_pairs];         // w F of the run
  float2 own_shares[runs][block_pairs];      // of chunks' totals: a chunk's own runs
  float2 state_shares[runs][block_pairs];    // of sum_d S G
  float2 later[anchor_chunks][block_pairs];  // L, by chunk

  // L of a chunk, where the anchor has `chunks` of them: E, then what is between.
  __device__ __forceinline__ float2 after(int chunk, int chunks, int pair, int state_parts,
                                          float2 anchor_end) const {
    float2 sum{0.0F, 0.0F};
    for (int i = 0; i < min(runs, state_parts); ++i) {
      add(sum, state_shares[i][pair]);
    }
    sum.x *= __expf(anchor_end.x);
    sum.y *= __expf(anchor_end.y);
#pragma unroll
    for (int i = 0; i < chunk_runs; ++i) {
      add(sum, written[(chunks - 1) * chunk_runs + i][pair]);
    }
    for (int i = (chunk + 1) * chunk_runs; i < chunks * chunk_runs; ++i) {
      sum.x += own_shares[i][pair].x - written[i][pair].x;
      sum.y += own_shares[i][pair].y - written[i][pair].y;
    }
    return sum;
  }
};

template <int slots>
__global__ void __launch_bounds__(finish_threads, 2)
    finish_kernel(const __grid_constant__ GsaFinishArgs args) {
  __shared__ FinishSums sums;
  const int run = static_cast<int>(threadIdx.x) / block_pairs;
  const int pair = static_cast<int>(threadIdx.x) % block_pairs;
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const BlockPlace<slots> block(args.gates.heads);
  const SequencePart part =
      find_part(args.offsets, args.sequences, anchor_rows, 0, block.anchor, lane);
  if (part.sequence < 0) {
    return;
  }
  const int begin = part.begin + part.index * anchor_rows;
  const int chunks = (min(anchor_rows, part.end - begin) + chunk_rows - 1) / chunk_rows;
  const int64_t first =
      chunks_before(args.offsets, part.sequence, lane) + int64_t(part.index) * anchor_chunks;
  const int chunk = run / chunk_runs;
  FinishPlace<slots> at;
  at.chunk = first + chunk;
  at.token = begin + run * run_rows;
  at.head = block.head;
  at.slot = block.group * block_slots + 2 * pair;
  at.row = run % chunk_runs * run_rows;
  at.rows = at.slot < args.gates.slots ? max(0, min(run_rows, part.end - at.token)) : 0;

  const int heads = args.gates.heads;
  const int64_t anchor = (first + chunks - 1) * heads + at.head;
  const int state_parts = args.walk_heads / heads * args.slices * int(GsaWalkPlan::warpgroups);
  const float2 state_share = share_of_parts<slots>(
      args.state_products + anchor * state_parts * slots + at.slot, run, runs, state_parts);
  float2 own[run_rows];
  FinishLogits logits;
  float2 sum{0.0F, 0.0F};
  // What all threads wait for is asked for before any of it is used.
  if (chunk < chunks) {
    const int group = args.own_heads / heads;
    const int parts = args.walk_heads / heads * args.written_parts;
    const int64_t own_head = int64_t(at.head) * group;
    const float* own_rows = args.own_gradients + at.by_slot(args.own_heads, own_head);
    const float* written_rows =
        args.written_products + at.by_slot(int64_t(heads) * parts, int64_t(at.head) * parts);
    float2 written[run_rows];  // F
    const FinishGate<slots> gate(args, at);
    load_rows<slots>(own_rows, own);
    load_rows<slots>(written_rows, written);
    const float2 own_share = share_of_parts<slots>(
        args.own_totals + (at.chunk * args.own_heads + own_head) * slots + at.slot,
        run % chunk_runs, chunk_runs, group);
    add_others<slots>(written_rows, parts, written);
    add_others<slots>(own_rows, group, own);
    sums.own_shares[run][pair] = own_share;
#pragma unroll
    for (int i = run_rows - 1; i >= 0; --i) {
      if (i < at.rows) {
        const float2 w = unpack_pair(gate.weights[i]);
        const float2 fade = gate.fade(i, at.row == 0);
        sum.x += w.x * written[i].x;
        sum.y += w.y * written[i].y;
        own[i].x -= sum.x + fade.x * written[i].x;
        own[i].y -= sum.y + fade.y * written[i].y;
      }
    }
    if (args.gradient.data == nullptr) {
      logits.load(args, at);
    }
  }
  sums.written[run][pair] = sum;
  sums.state_shares[run][pair] = state_share;
  __syncthreads();
  if (run < chunks) {
    const float2 anchor_end =
        load_two(args.gates.decay + (anchor * chunk_rows + chunk_rows - 1) * slots + at.slot);
    sums.later[run][pair] = sums.after(run, chunks, pair, state_parts, anchor_end);
  }
  __syncthreads();
  if (at.rows == 0) {
    return;
  }
  float2 later = sums.later[chunk][pair];
  for (int i = run + 1; i < (chunk + 1) * chunk_runs; ++i) {
    later.x -= sums.written[i][pair].x;
    later.y -= sums.written[i][pair].y;
  }
#pragma unroll
  for (int i = 0; i < run_rows; ++i) {
    if (i < at.rows) {
      store_gradient(args, at, logits, i, make_float2(own[i].x + later.x, own[i].y + later.y));
    }
  }
}

constexpr int sum_threads = 256;

__global__ void __launch_bounds__(sum_threads) group_sum_kernel(const GsaGroupSumArgs args) {
  const int pieces = args.sums.dim / vector_width;
  const int64_t index = int64_t(blockIdx.x) * sum_threads + threadIdx.x;
  const int column = static_cast<int>(index % pieces) * vector_width;
  const int64_t row = index / pieces;  // token and head
  if (row >= args.tokens * args.heads) {
    return;
  }
  float sums[vector_width] = {};
  for (int member = 0; member < args.group; ++member) {
    float x[vector_width];
    load<vector_width>(args.rows + (row * args.group + member) * args.sums.dim + column, x);
#pragma unroll
    for (int i = 0; i < vector_width; ++i) {
      sums[i] += x[i];
    }
  }
  store<vector_width>(args.sums.at(row / args.heads, static_cast<int>(row % args.heads)) + column,
                      sums);
}

}  // namespace

void launch_gsa_finish(cudaStream_t stream, const GsaSizes& sizes, const GsaFinishArgs& args) {
  if (sizes.chunks == 0) {
    return;
  }
  const int64_t anchors = sizes.chunks / anchor_chunks + sizes.sequences;  // at most
  const auto grid = static_cast<unsigned>(anchors * sizes.heads * (sizes.slots / block_slots));
  if (sizes.slots == gsa_tile) {
    finish_kernel<64><<<grid, finish_threads, 0, stream>>>(args);
  } else {
    finish_kernel<128><<<grid, finish_threads, 0, stream>>>(args);
  }
  check_launch("gsa finish");
}

void launch_gsa_group_sum(cudaStream_t stream, const GsaGroupSumArgs& args) {
  const int64_t pieces = args.tokens * args.heads * (args.sums.dim / vector_width);
  if (pieces == 0) {
    return;
  }
  group_sum_kernel<<<blocks_of(pieces, sum_threads), sum_threads, 0, stream>>>(args);
  check_launch("gsa sum over groups");
}

}  // namespace gsa::kernels::cuda
