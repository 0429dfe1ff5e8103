// The gate's gradient, from what the backward read-out and the walk leave, and sums over groups of
// query heads.
//
//   d log alpha_t = E + sum over i >= t of (terms_i - w_i F_i)  -  alpha_t (ds_t + e^(b_end - b_t)
//   F_t) F = X G^T of both sides: what later chunks add to the slots' inputs' gradients terms = p
//   dp + u du - s ds, and ds: of what the chunk's own tokens read E = state at an anchor's end
//   times its gradient, summed over dimensions
//     = e^{b_end} sum_d S G + sum_j w_j F_j
//
// The sum over tokens starts anew at anchors, the ends of every `anchor_chunks` chunks: rounding
// does not pile up along a sequence. A block does the chunks up to one anchor, 64 slots of one
// key/value head; a thread has a slot and 16 tokens. At B8 T2048 H4 M64: 256 blocks; 140 MB read,
// 17 MB written.
#include "kernels/cuda/gsa_kernels.h"

namespace gsa::kernels::cuda {
namespace {

constexpr int run_rows = 16;  // tokens a thread
constexpr int chunk_runs = chunk_rows / run_rows;
constexpr int runs = chunk_runs * int(GsaWalkPlan::anchor_chunks);
constexpr int block_slots = panel_columns;
constexpr int finish_threads = runs * block_slots;
static_assert(finish_threads <= 1024);

// Where a thread is: a slot, and tokens [row, row + run_rows) of a chunk.
struct FinishPlace {
  GsaChunk place;
  int64_t chunk;
  int head;
  int slot;
  int slots;  // padded
  int row;
  int rows;  // that exist, from `row` on; 0 in what is past the sequence's end

  __device__ int64_t by_slot(int64_t heads, int64_t of_head) const {
    return ((chunk * heads + of_head) * chunk_rows + row) * slots + slot;
  }
};

// Adds what `parts` tensors [gsa_chunk, slots] hold for the thread's tokens.
__device__ __forceinline__ void add_rows(const FinishPlace& at, const float* source, int parts,
                                         float (&sums)[run_rows]) {
#pragma unroll 1
  for (int part = 0; part < parts; ++part) {
#pragma unroll
    for (int i = 0; i < run_rows; ++i) {
      sums[i] += i < at.rows ? __ldg(source + i * at.slots) : 0.0F;
    }
    source += chunk_rows * at.slots;
  }
}

// E but for the sum over w F.
__device__ float state_sum(const GsaFinishArgs& args, const FinishPlace& at) {
  const int walkers = args.walk_heads / args.gates.heads;
  const int parts = walkers * args.slices * int(GsaWalkPlan::warpgroups);
  const float* sums =
      args.state_products + (at.chunk * args.gates.heads + at.head) * parts * at.slots + at.slot;
  float sum = 0.0F;
  for (int part = 0; part < parts; ++part) {
    sum += sums[part * at.slots];
  }
  const int64_t gate = at.chunk * args.gates.heads + at.head;
  return __expf(args.gates.decay[(gate * chunk_rows + chunk_rows - 1) * at.slots + at.slot]) * sum;
}

// From the sums over tokens and F.
__device__ __forceinline__ void store_gradient(const GsaFinishArgs& args, const FinishPlace& at,
                                               const float (&sums)[run_rows],
                                               const float (&written)[run_rows]) {
  const int group = args.query_heads / args.gates.heads;
  const int64_t by_head = at.by_slot(args.gates.heads, at.head);
  const float end = args.gates.decay[by_head + int64_t(chunk_rows - 1 - at.row) * at.slots];
  float direct[run_rows] = {};
  add_rows(at, args.slot_gradients + at.by_slot(args.query_heads, int64_t(at.head) * group), group,
           direct);
  const float* log_alpha = args.gates.log_alpha.at(at.place.begin + at.row, at.head) + at.slot;
  float* output = args.gradient.at(at.place.begin + at.row, at.head) + at.slot;
#pragma unroll
  for (int i = 0; i < run_rows; ++i) {
    if (i < at.rows) {
      const float b = __ldg(args.gates.decay + by_head + i * at.slots);
      const float alpha = __expf(__ldg(log_alpha + i * args.gates.log_alpha.stride));
      output[i * args.gradient.stride] =
          sums[i] - alpha * (direct[i] + __expf(fminf(end - b, 0.0F)) * written[i]);
    }
  }
}

__global__ void __launch_bounds__(finish_threads, 1)
    finish_kernel(const __grid_constant__ GsaFinishArgs args, int slots) {
  __shared__ float term_sums[runs][block_slots];
  __shared__ float written_sums[runs][block_slots];
  const int run = static_cast<int>(threadIdx.x) / block_slots;
  const int slot_of_block = static_cast<int>(threadIdx.x) % block_slots;
  const GsaChunk first = args.gates.chunks[blockIdx.x];
  const int sequence_begin = args.offsets[first.sequence];
  const int sequence_end = args.offsets[first.sequence + 1];
  constexpr int anchor_rows = chunk_rows * int(GsaWalkPlan::anchor_chunks);
  if ((first.begin - sequence_begin) % anchor_rows != 0) {
    return;
  }
  FinishPlace at;
  at.chunk = int64_t(blockIdx.x) + run / chunk_runs;
  at.place = first;
  at.place.begin += run / chunk_runs * chunk_rows;
  at.head = static_cast<int>(blockIdx.y);
  at.slots = slots;
  at.slot = static_cast<int>(blockIdx.z) * block_slots + slot_of_block;
  at.row = run % chunk_runs * run_rows;
  at.rows = at.slot < args.gates.slots
                ? max(0, min(run_rows, sequence_end - at.place.begin - at.row))
                : 0;
  const int anchor_chunk =  // of the block's
      (min(anchor_rows, sequence_end - first.begin) + chunk_rows - 1) / chunk_rows - 1;

  const int group = args.query_heads / args.gates.heads;
  const int parts = args.walk_heads / args.gates.heads * args.slices;
  float written[run_rows] = {};  // F
  float terms[run_rows] = {};
  add_rows(at,
           args.written_products +
               at.by_slot(int64_t(args.gates.heads) * parts, int64_t(at.head) * parts),
           parts, written);
  const int64_t by_query = at.by_slot(args.query_heads, int64_t(at.head) * group);
  add_rows(at, args.gate_terms + by_query, group, terms);
  const int64_t by_head = at.by_slot(args.gates.heads, at.head);
  float term_sum = 0.0F;
  float written_sum = 0.0F;
#pragma unroll
  for (int i = 0; i < run_rows; ++i) {
    const float w = i < at.rows ? to_float(args.gates.end_key_gate[by_head + i * slots]) : 0.0F;
    terms[i] -= w * written[i];
    term_sum += terms[i];
    written_sum += w * written[i];
  }
  term_sums[run][slot_of_block] = term_sum;
  written_sums[run][slot_of_block] = written_sum;
  __syncthreads();
  if (at.rows == 0) {
    return;
  }
  FinishPlace anchor = at;
  anchor.chunk = int64_t(blockIdx.x) + anchor_chunk;
  float running = state_sum(args, anchor);
#pragma unroll
  for (int i = 0; i < chunk_runs; ++i) {
    running += written_sums[anchor_chunk * chunk_runs + i][slot_of_block];
  }
  for (int i = runs - 1; i > run; --i) {
    running += term_sums[i][slot_of_block];
  }
#pragma unroll
  for (int i = run_rows - 1; i >= 0; --i) {
    running += terms[i];
    terms[i] = running;
  }
  store_gradient(args, at, terms, written);
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
