// The forget gate by chunk: where each chunk lies, the running sum b of log alpha in it, and the
// two gates that what is written into the slots is multiplied with. b as it is kept is relative to
// a reference (GsaGates).
//
// A block does one chunk and key/value head, its neighbours the chunk's other heads: a thread has a
// slot and 16 tokens in registers. Bytes a token and slot: 4 read (2 of logits), 8 written; at B8
// T2048 H4 M64 50 MB, 15 us at 3.3 TB/s.
#include "kernels/cuda/gsa_kernels.h"

namespace gsa::kernels::cuda {
namespace {

constexpr int run_rows = 16;  // tokens a thread
constexpr int runs = chunk_rows / run_rows;
// Gates below this wipe a slot all the same; cut off there, so that b keeps its last places.
constexpr float shut = -40.0F;

// Where the block's chunk lies; one warp.
__device__ GsaChunk find_chunk(const int32_t* offsets, int sequences, int chunk, int lane) {
  const SequencePart part = find_part(offsets, sequences, chunk_rows, 0, chunk, lane);
  const int first = part.begin + part.index * chunk_rows;
  return {part.sequence, first, min(chunk_rows, part.end - first), part.index == 0 ? 1 : 0};
}

// log alpha of a thread's tokens; 0 where there are none. All loads before their first use.
__device__ void load_run(const GsaGateRows& gate, int first, int head, int slot, int rows,
                         float (&value)[run_rows]) {
  if (gate.log_alpha.data != nullptr) {
    const float* from = gate.log_alpha.at(first, head) + slot;
#pragma unroll
    for (int i = 0; i < run_rows; ++i) {
      value[i] = i < rows ? __ldg(from + i * gate.log_alpha.stride) : 0.0F;
    }
    return;
  }
  const bfloat16* from = gate.logits.at(first, head) + slot;
  bfloat16 logits[run_rows];
#pragma unroll
  for (int i = 0; i < run_rows; ++i) {
    logits[i] = i < rows ? from[i * gate.logits.stride] : bfloat16(0.0F);
  }
#pragma unroll
  for (int i = 0; i < run_rows; ++i) {
    const float log_alpha = log_sigmoid(to_float(logits[i])) * gate.inverse_normalizer;
    value[i] = i < rows ? log_alpha : 0.0F;
  }
}

// How many chunks come before one, if all segments' first chunks are read before their second ones;
// `place` is its sequence, `index` its number in it. One warp.
__device__ int reading_rank(const GsaGateArgs& args, int sequence, int index, int lane) {
  const int position = index % args.segment_chunks;
  int before = 0;
  for (int i = lane; i < args.sequences; i += warp_size) {
    const int chunks = (args.offsets[i + 1] - args.offsets[i] + chunk_rows - 1) / chunk_rows;
    const int whole = chunks / args.segment_chunks;
    const int rest = chunks % args.segment_chunks;
    before += whole * position + min(rest, position);
    if (i < sequence) {
      before += whole + (rest > position ? 1 : 0);
    }
  }
  return static_cast<int>(__reduce_add_sync(~0U, static_cast<unsigned>(before))) +
         index / args.segment_chunks;
}

// The chunk's counters and its place in the order of reading; one warp.
__device__ void prepare_flow(const GsaGateArgs& args, const GsaChunk& place, int chunk, int lane) {
  const int index = (place.begin - args.offsets[place.sequence]) / chunk_rows;
  const int rank = reading_rank(args, place.sequence, index, lane);
  if (lane == 0) {
    args.order[rank] = chunk;
  }
  for (int head = lane; head < args.state_heads; head += warp_size) {
    args.stored[int64_t(chunk) * args.state_heads + head] = 0;
  }
  if (chunk == 0 && lane == 0) {
    *args.next = 0;
  }
}

template <int slots>
__global__ void __launch_bounds__(slots* runs) gates_kernel(const GsaGateArgs args) {
  __shared__ GsaChunk place;
  __shared__ float sums[runs][slots];
  const int chunk = static_cast<int>(blockIdx.x) / args.heads;
  const int head = static_cast<int>(blockIdx.x) % args.heads;
  const int slot = static_cast<int>(threadIdx.x) % slots;
  const int run = static_cast<int>(threadIdx.x) / slots;
  if (threadIdx.x < warp_size) {
    const GsaChunk found =
        find_chunk(args.offsets, args.sequences, chunk, static_cast<int>(threadIdx.x));
    if (threadIdx.x == 0) {
      place = found;
      if (head == 0) {
        args.chunks[chunk] = found;
      }
    }
  }
  __syncthreads();

  if (head == 0 && args.order != nullptr && threadIdx.x < warp_size) {
    prepare_flow(args, place, chunk, static_cast<int>(threadIdx.x));
  }
  const int rows = slot < args.slots ? place.length - run * run_rows : 0;
  float value[run_rows];
  load_run(args.rows, place.begin + run * run_rows, head, slot, rows, value);
  float sum = 0.0F;
#pragma unroll
  for (int i = 0; i < run_rows; ++i) {
    sum += fmaxf(value[i], shut);
  }
  sums[run][slot] = sum;
  __syncthreads();
  float before = 0.0F;
  float end = 0.0F;
#pragma unroll
  for (int i = 0; i < runs; ++i) {
    before += i < run ? sums[i][slot] : 0.0F;
  }
  // The same order of addition as in the loop below, so that b at the last token is `end`.
#pragma unroll
  for (int i = 0; i < runs; ++i) {
    end += sums[i][slot];
  }

  const float reference = fmaxf(0.5F * end, -GsaGates::factor_limit);
  const bool steep = end - reference < -GsaGates::factor_limit;
  const int64_t base =
      ((int64_t(chunk) * args.heads + head) * chunk_rows + run * run_rows) * slots + slot;
  float running = 0.0F;
#pragma unroll
  for (int i = 0; i < run_rows; ++i) {
    running += fmaxf(value[i], shut);
    const float b = before + running;
    const float s = slot_input(value[i]);
    args.decay[base + i * slots] = b - reference;
    args.key_gate[base + i * slots] =
        from_float<bfloat16>(steep ? 0.0F : s * __expf(reference - b));
    args.end_key_gate[base + i * slots] = from_float<bfloat16>(s * __expf(fminf(end - b, 0.0F)));
  }
}

}  // namespace

void launch_gsa_gates(cudaStream_t stream, const GsaSizes& sizes, const GsaGateArgs& args) {
  if (sizes.chunks == 0) {
    return;
  }
  const auto grid = static_cast<unsigned>(sizes.chunks * sizes.heads);
  if (sizes.slots == gsa_tile) {
    gates_kernel<64><<<grid, 64 * runs, 0, stream>>>(args);
  } else {
    gates_kernel<128><<<grid, 128 * runs, 0, stream>>>(args);
  }
  check_launch("gsa gates");
}

}  // namespace gsa::kernels::cuda
