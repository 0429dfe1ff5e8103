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
// does not pile up along a sequence. A block does the chunks up to one anchor, 32 slots of one
// key/value head; a thread has a slot and 16 tokens. At B8 T2048 H4 M64: 512 blocks; 76 MB read,
// 17 MB written.
#include "kernels/cuda/gsa_kernels.h"

namespace gsa::kernels::cuda {
namespace {

constexpr int run_rows = 16;  // tokens a thread
constexpr int chunk_runs = chunk_rows / run_rows;
constexpr int runs = chunk_runs * int(GsaWalkPlan::anchor_chunks);
constexpr int block_slots = 32;
constexpr int finish_threads = runs * block_slots;
constexpr int anchor_rows = chunk_rows * int(GsaWalkPlan::anchor_chunks);

// Where a thread is: a slot, and tokens [row, row + run_rows) of a chunk.
struct FinishPlace {
  int64_t chunk;
  int token;  // the first
  int head;
  int slot;
  int slots;  // padded
  int row;
  int rows;  // that exist, from `row` on; 0 in what is past the sequence's end

  // Of a tensor [chunks, heads, gsa_chunk, slots].
  __device__ int64_t by_slot(int64_t heads, int64_t of_head) const {
    return ((chunk * heads + of_head) * chunk_rows + row) * slots + slot;
  }
};

// Adds what `parts` tensors [gsa_chunk, slots] hold for the thread's tokens.
__device__ __forceinline__ void add_rows(const FinishPlace& at, const float* source, int parts,
                                         float (&sums)[run_rows]) {
#pragma unroll 2
  for (int part = 0; part < parts; ++part) {
#pragma unroll
    for (int i = 0; i < run_rows; ++i) {
      sums[i] += i < at.rows ? __ldg(source + i * at.slots) : 0.0F;
    }
    source += chunk_rows * at.slots;
  }
}

// The sum over part `first`, first + runs, ... of `parts` tensors [slots]: a thread's share.
__device__ __forceinline__ float share_of_parts(const float* source, int slots, int first,
                                                int parts) {
  float sum = 0.0F;
#pragma unroll 2
  for (int part = first; part < parts; part += runs) {
    sum += __ldg(source + part * slots);
  }
  return sum;
}

// The gradient of log alpha of the thread's i-th token, or in projected mode of its logit.
__device__ void store_gradient(const GsaFinishArgs& args, const FinishPlace& at, int i,
                               float gradient) {
  if (args.gradient.data != nullptr) {
    args.gradient.at(at.token + i, at.head)[at.slot] = gradient;
    return;
  }
  const GsaGateRows& gate = args.gates.rows;
  const float logit = to_float(gate.logits.at(at.token + i, at.head)[at.slot]);
  args.logit_gradient.at(at.token + i, at.head)[at.slot] =
      from_float<bfloat16>(gradient * sigmoid(-logit) * gate.inverse_normalizer);
}

__global__ void __launch_bounds__(finish_threads, 2)
    finish_kernel(const __grid_constant__ GsaFinishArgs args, int slots) {
  __shared__ float written_sums[runs][block_slots];
  __shared__ float own_shares[runs][block_slots];    // of chunks' totals: a chunk's own runs
  __shared__ float state_shares[runs][block_slots];  // of sum_d S G
  __shared__ float later_sums[GsaWalkPlan::anchor_chunks][block_slots];  // L, by chunk
  const int run = static_cast<int>(threadIdx.x) / block_slots;
  const int slot = static_cast<int>(threadIdx.x) % block_slots;
  const GsaChunk first = args.gates.chunks[blockIdx.x];
  const int end = args.offsets[first.sequence + 1];
  if ((first.begin - args.offsets[first.sequence]) % anchor_rows != 0) {
    return;
  }
  const int chunks = (min(anchor_rows, end - first.begin) + chunk_rows - 1) / chunk_rows;
  FinishPlace at;
  at.chunk = int64_t(blockIdx.x) + run / chunk_runs;
  at.token = first.begin + run * run_rows;
  at.head = static_cast<int>(blockIdx.y);
  at.slots = slots;
  at.slot = static_cast<int>(blockIdx.z) * block_slots + slot;
  at.row = run % chunk_runs * run_rows;
  at.rows = at.slot < args.gates.slots ? max(0, min(run_rows, end - at.token)) : 0;

  // What all threads wait for is loaded before any of it is used.
  const int heads = args.gates.heads;
  const int group = args.own_heads / heads;
  const int parts = args.walk_heads / heads * args.written_parts;
  const int64_t by_head = at.by_slot(heads, at.head);
  float log_alpha[run_rows];
  float w[run_rows];
#pragma unroll
  for (int i = 0; i < run_rows; ++i) {
    log_alpha[i] = i < at.rows ? args.gates.rows.at(at.token + i, at.head, at.slot) : 0.0F;
    w[i] = i < at.rows ? to_float(args.gates.end_key_gate[by_head + i * slots]) : 0.0F;
  }
  const int64_t anchor = (int64_t(blockIdx.x) + chunks - 1) * heads + at.head;
  const int state_parts = args.walk_heads / heads * args.slices * int(GsaWalkPlan::warpgroups);
  state_shares[run][slot] = share_of_parts(
      args.state_products + anchor * state_parts * slots + at.slot, slots, run, state_parts);
  const float anchor_end =
      __ldg(args.gates.decay + (anchor * chunk_rows + chunk_rows - 1) * slots + at.slot);
  float own_share = 0.0F;
  if (run / chunk_runs < chunks) {
    const float* totals =
        args.own_totals + (at.chunk * args.own_heads + int64_t(at.head) * group) * slots + at.slot;
    for (int member = run % chunk_runs; member < group; member += chunk_runs) {
      own_share += __ldg(totals + member * slots);
    }
  }
  own_shares[run][slot] = own_share;
  float written[run_rows] = {};  // F
  float own[run_rows] = {};
  add_rows(at, args.own_gradients + at.by_slot(args.own_heads, int64_t(at.head) * group), group,
           own);
  add_rows(at, args.written_products + at.by_slot(int64_t(heads) * parts, int64_t(at.head) * parts),
           parts, written);
  const float* decay = args.gates.decay + by_head;
  float sum = 0.0F;
#pragma unroll
  for (int i = run_rows - 1; i >= 0; --i) {
    if (i < at.rows) {
      const float s = slot_input(log_alpha[i]);
      // w = s e^(b_end - b); an open gate writes nothing and leaves no quotient.
      const float fade =
          s > 0.0F
              ? __fdividef(w[i], s)
              : __expf(fminf(decay[(chunk_rows - 1 - at.row) * slots] - decay[i * slots], 0.0F));
      sum += w[i] * written[i];
      own[i] -= sum + __expf(log_alpha[i]) * fade * written[i];
    }
  }
  written_sums[run][slot] = sum;
  __syncthreads();
  if (run < chunks) {
    float later = 0.0F;  // E, then what is between
    for (int i = 0; i < min(runs, state_parts); ++i) {
      later += state_shares[i][slot];
    }
    later *= __expf(anchor_end);
#pragma unroll
    for (int i = 0; i < chunk_runs; ++i) {
      later += written_sums[(chunks - 1) * chunk_runs + i][slot];
    }
    for (int i = (run + 1) * chunk_runs; i < chunks * chunk_runs; ++i) {
      later += own_shares[i][slot] - written_sums[i][slot];
    }
    later_sums[run][slot] = later;
  }
  __syncthreads();
  if (at.rows == 0) {
    return;
  }
  const int chunk = run / chunk_runs;
  float later = later_sums[chunk][slot];
  for (int i = run + 1; i < (chunk + 1) * chunk_runs; ++i) {
    later -= written_sums[i][slot];
  }
#pragma unroll
  for (int i = 0; i < run_rows; ++i) {
    if (i < at.rows) {
      store_gradient(args, at, i, own[i] + later);
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
  const dim3 grid(static_cast<unsigned>(sizes.chunks), static_cast<unsigned>(sizes.heads),
                  static_cast<unsigned>(sizes.slots / block_slots));
  finish_kernel<<<grid, finish_threads, 0, stream>>>(args, static_cast<int>(sizes.slots));
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
