// The forget gate by chunk: where each chunk lies, the running sum b of log alpha in it, and the
// two gates that what is written into the slots is multiplied with. b as it is kept is relative to
// a reference (GsaGates).
//
// A block does one chunk and key/value head: a thread has a slot and 16 tokens in registers. Bytes
// a token and slot: 4 read (2 of logits), 8 written; at B8 T2048 H4 M64 50 MB, 15 us at 3.3 TB/s.
#include "kernels/cuda/gsa_kernels.h"

namespace gsa::kernels::cuda {
namespace {

constexpr int run_rows = 16;  // tokens a thread
constexpr int runs = chunk_rows / run_rows;
// Gates below this wipe a slot all the same; cut off there, so that b keeps its last places.
constexpr float shut = -40.0F;

// Which sequence the block's chunk belongs to; one warp.
__device__ GsaChunk find_chunk(const int32_t* offsets, int sequences, int chunk, int lane) {
  int before = 0;
  for (int base = 0; base < sequences; base += warp_size) {
    const int sequence = base + lane;
    const int begin = sequence < sequences ? offsets[sequence] : 0;
    const int end = sequence < sequences ? offsets[sequence + 1] : 0;
    const int count = (end - begin + chunk_rows - 1) / chunk_rows;
    int through = count;
#pragma unroll
    for (int step = 1; step < warp_size; step *= 2) {
      const int other = __shfl_up_sync(~0U, through, step);
      through += lane >= step ? other : 0;
    }
    const int first = before + through - count;
    const bool here = chunk >= first && chunk < before + through;
    const unsigned found = __ballot_sync(~0U, here);
    if (found != 0) {
      const int source = __ffs(static_cast<int>(found)) - 1;
      const int index = chunk - first;
      GsaChunk place{sequence, begin + index * chunk_rows,
                     min(chunk_rows, end - begin - index * chunk_rows), index == 0 ? 1 : 0};
      place.sequence = __shfl_sync(~0U, place.sequence, source);
      place.begin = __shfl_sync(~0U, place.begin, source);
      place.length = __shfl_sync(~0U, place.length, source);
      place.first = __shfl_sync(~0U, place.first, source);
      return place;
    }
    before += __shfl_sync(~0U, through, warp_size - 1);
  }
  return {0, 0, 0, 0};
}

template <int slots>
__global__ void __launch_bounds__(slots* runs) gates_kernel(const GsaGateArgs args) {
  __shared__ GsaChunk place;
  __shared__ float sums[runs][slots];
  const int chunk = static_cast<int>(blockIdx.x);
  const int head = static_cast<int>(blockIdx.y);
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

  float value[run_rows];
  float sum = 0.0F;
#pragma unroll
  for (int i = 0; i < run_rows; ++i) {
    const int row = run * run_rows + i;
    const bool exists = row < place.length && slot < args.slots;
    value[i] = exists ? args.rows.at(place.begin + row, head, slot) : 0.0F;
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
  const dim3 grid(static_cast<unsigned>(sizes.chunks), static_cast<unsigned>(sizes.heads));
  if (sizes.slots == gsa_tile) {
    gates_kernel<64><<<grid, 64 * runs, 0, stream>>>(args);
  } else {
    gates_kernel<128><<<grid, 128 * runs, 0, stream>>>(args);
  }
  check_launch("gsa gates");
}

}  // namespace gsa::kernels::cuda
