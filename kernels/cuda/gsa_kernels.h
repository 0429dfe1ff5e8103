// The kernels of the chunked GSA, and what they have in common. See gsa_chunked.cu for how they
// make up the operation.
#pragma once

#include "kernels/cuda/gsa_swish.h"
#include "kernels/cuda/gsa_workspace.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/mma.h"

namespace gsa::kernels::cuda {

inline constexpr int chunk_rows = int(gsa_chunk);
static_assert(chunk_rows == panel_columns, "a chunk's [token, token] products are single panels");

// Where a chunk lies.
struct GsaChunk {
  int32_t sequence;
  int32_t begin;   // first token
  int32_t length;  // 1 to gsa_chunk
  int32_t first;   // 1 if it is the first of its sequence
};
static_assert(sizeof(GsaChunk) == GsaGateParts::chunk_bytes);

// Rows of [N, heads, dim] as kernels take them.
template <typename T>
struct HeadRows {
  T* data = nullptr;
  int64_t stride = 0;  // elements from a token to the next
  int dim = 0;

  __device__ T* at(int64_t token, int head) const {
    return data + token * stride + int64_t(head) * dim;
  }
};

template <typename T>
HeadRows<const T> head_rows(const ConstTensor& tensor) {
  const Rows<const T> rows = rows_of<T>(tensor);
  return {rows.data, rows.stride, static_cast<int>(tensor.dim(2))};
}
template <typename T>
HeadRows<T> head_rows(const Tensor& tensor) {
  const Rows<T> rows = rows_of<T>(tensor);
  return {rows.data, rows.stride, static_cast<int>(tensor.dim(2))};
}

// The gate by token as the caller gives it: log alpha, or in projected mode logits.
struct GsaGateRows {
  HeadRows<const float> log_alpha;  // or null:
  HeadRows<const bfloat16> logits;
  float inverse_normalizer;

  __device__ float at(int64_t token, int head, int slot) const {
    if (log_alpha.data != nullptr) {
      return log_alpha.at(token, head)[slot];
    }
    return log_sigmoid(to_float(logits.at(token, head)[slot])) * inverse_normalizer;
  }
};

// The gate of a call, by chunk. b, the sum of log alpha from the chunk's start, is kept relative to
// a reference by slot, max(b_end / 2, -factor_limit), so that e^(b_t - b_j) splits into two factors
// within e^(+-factor_limit). Slots that fade by more than both take, e^(-2 factor_limit) in a
// chunk, are *steep*: their `key_gate` is zero and the kernels add their part pair by pair. States
// at the chunks' starts are kept times e^reference, which gives every product the same factor.
struct GsaGates {
  static constexpr float factor_limit = 60.0F;

  const GsaChunk* chunks;
  const float* decay;            // b relative to the reference, [chunks, heads, gsa_chunk, slots]
  const bfloat16* key_gate;      // s e^-b, likewise
  const bfloat16* end_key_gate;  // s e^(b_end - b)
  GsaGateRows rows;
  int heads;
  int slots;  // not padded
};

// gates.cu: fills GsaGateParts from the gate's rows and the sequences.
struct GsaGateArgs {
  const int32_t* offsets;
  int sequences;
  GsaGateRows rows;
  int heads;
  int slots;
  GsaChunk* chunks;
  float* decay;
  bfloat16* key_gate;
  bfloat16* end_key_gate;
  // What the forward kernel counts with, cleared here, and its order: all segments' first chunks,
  // then their second ones, ... Or null.
  int* next;
  int* stored;
  int* order;
  int state_heads;
  int segment_chunks;
};
void launch_gsa_gates(cudaStream_t stream, const GsaSizes& sizes, const GsaGateArgs& args);

// scan.cu: states at every chunk's boundary, state [slots, dim] of a head along its sequence:
//   state = Diag(e^{b_end}) state + weights^T rows,    chunk by chunk
// Where sequences are cut into segments (GsaSegments), a first pass leaves what each segment adds
// to a state, and by how much it lets one fade; in the second every segment starts from its own
// state.
struct GsaScanPart {
  HeadRows<const bfloat16> rows;
  const bfloat16* weights;  // [chunks, weight heads, gsa_chunk, slots]
  bfloat16* states;         // [chunks, heads, slots, dim padded]: before each chunk is added
  const float* initial;     // or null: zero
  float* final;             // or null
  int padded_dim;
  bool dim_major;  // initial and final are [dim, slots] (key states), else [slots, dim]
  bool activate;   // x is swish of `rows`
};
struct GsaScanArgs {
  const int32_t* offsets;
  GsaScanPart keys;
  GsaScanPart values;
  const float* decay;
  int slots;
  int gate_heads;
  int heads;         // that have states
  int query_heads;   // that `initial` and `final` have
  int row_heads;     // of `rows`
  int weight_heads;  // of `weights`
  int sequences;
  int segment_chunks;     // that a segment has, of one sequence
  int segments;           // at most so many, of all sequences; those of one are neighbours
  float* segment_states;  // [segments, heads, slots, key_dim + value_dim]: what a segment adds
  float* segment_decays;  // [segments, heads, slots]: what it leaves of a state
};
void launch_gsa_scan(cudaStream_t stream, const GsaSizes& sizes, const GsaScanArgs& args);
// The first pass by segments alone, if the scan is by segments.
void launch_gsa_segments(cudaStream_t stream, const GsaSizes& sizes, const GsaScanArgs& args);

// read.cu (backward) and forward.cu: two read-outs of the states by chunk and query head, with the
// softmax or its gradient between them.
//   forward:   u = scale (e^b (Q K_0) + intra),  p = softmax(u),  O = (p e^b) V_0 + intra
//   backward:  dp = e^b (dO V_0) + intra,  du,  dQ = scale ((du e^b) K_0 + intra)
struct GsaReadSide {
  HeadRows<const bfloat16> rows;  // k or v
  const bfloat16* states;         // [chunks, state heads, slots, dim padded]
  int padded_dim;
};
struct GsaReadArgs {
  GsaGates gates;
  HeadRows<const bfloat16> queries;  // q, backward: grad_output
  GsaReadSide first;                 // keys, backward: values
  GsaReadSide second;                // values, backward: keys
  bool projected;                    // q, k, v are swish of the rows given
  HeadRows<bfloat16> output;         // null: only the scores are wanted
  // Of the forward pass, for the backward one (null: not wanted), as in GsaSaved.
  uint32_t* state_scores;
  uint32_t* key_products;
  float scale;
  int query_heads;
  int state_heads;
  // Backward only. In projected mode dQ is the gradient of these rows, from that of their swish.
  HeadRows<const bfloat16> output_inputs;
  // As in GsaBackwardWorkspace. The first two are written in chunks with steep
  // slots.
  bfloat16* probabilities;
  bfloat16* score_gradients;
  bfloat16* gated_probabilities;
  bfloat16* gated_gradients;
  bfloat16* value_weights;
  bfloat16* key_weights;
  float* own_gradients;
  float* own_totals;
};
void launch_gsa_read(cudaStream_t stream, const GsaSizes& sizes, const GsaReadArgs& args);

// forward.cu: scan and read-out as one. Counters and order are made by the gates (GsaGateArgs).
struct GsaFlow {
  int* next;         // counts the blocks that have begun
  int* stored;       // [chunks, state heads]: blocks of the scan that have stored the chunk's state
  const int* order;  // [chunks]: in which order chunks are read
};
void launch_gsa_forward(cudaStream_t stream, const GsaSizes& sizes, const GsaScanArgs& scan,
                        const GsaReadArgs& read, const GsaFlow& flow);

// walk.cu: the gradients of what was written into the slots, dk and dv, and what finish.cu makes
// the gate's of; with the gradients of the states, from the last chunk to the first.
struct GsaWalkSide {
  HeadRows<const bfloat16> written;  // v, or k
  HeadRows<const bfloat16> readers;  // grad_output, or q
  const bfloat16* weights;           // tril((r e^b) g^T), [chunks, query heads, reader, written]
  const bfloat16* operands;          // r e^b: p e^b, or scale du e^b
  const bfloat16* states;            // at the chunks' starts
  HeadRows<bfloat16> gradient;       // dv, or dk, by walking head
  const float* final_gradient;       // of the state after the last chunk; or null: zero
  float* initial_gradient;           // or null
  int padded_dim;
  bool dim_major;          // those two are [dim, slots] (key states), else [slots, dim]
  bool activates_written;  // projected: `written` and `gradient` are before swish
  bool activates_readers;  // `readers` is before swish
};
struct GsaWalkArgs {
  GsaWalkPlan plan;
  GsaGates gates;
  const int32_t* offsets;
  int64_t sequences;
  int64_t tokens;
  GsaWalkSide sides[2];  // values, keys
  int query_heads;
  int state_heads;
  // As in GsaBackwardWorkspace.
  float* written_products;
  float* state_products;
  float* segment_states;
  float* segment_decays;
  int* team_flags;
};
void launch_gsa_walk(cudaStream_t stream, const GsaSizes& sizes, const GsaWalkArgs& args);

// finish.cu: the gate's gradient from what the read-out and the walk left.
struct GsaFinishArgs {
  GsaGates gates;
  const int32_t* offsets;
  int sequences;
  const float* own_gradients;
  const float* own_totals;
  const float* written_products;
  const float* state_products;
  HeadRows<float> gradient;  // of log alpha; or null:
  HeadRows<bfloat16> logit_gradient;
  int own_heads;  // of the first two
  int walk_heads;
  int slices;
  int written_parts;
};
void launch_gsa_finish(cudaStream_t stream, const GsaSizes& sizes, const GsaFinishArgs& args);

// finish.cu: sums rows [tokens, heads * group, dim] over the groups.
struct GsaGroupSumArgs {
  const bfloat16* rows;
  HeadRows<bfloat16> sums;
  int64_t tokens;
  int heads;
  int group;
};
void launch_gsa_group_sum(cudaStream_t stream, const GsaGroupSumArgs& args);

// Sets what a kernel needs of shared memory and launches it, in clusters of blocks along x.
template <typename Args>
void launch_with_memory(void (*kernel)(Args), dim3 grid, int threads, int memory_bytes,
                        cudaStream_t stream, const Args& args, const char* name,
                        unsigned cluster = 1) {
  check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, memory_bytes),
        name);
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {cluster, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(memory_bytes);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = cluster > 1 ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, args), name);
}

// The slot input s = 1 - alpha, to 3e-6 of its value: near zero a series, without the difference.
__device__ inline float slot_input(float log_alpha) {
  constexpr float small = -0.05F;
  const float series =
      -log_alpha *
      (1.0F + log_alpha * (1.0F / 2 + log_alpha * (1.0F / 6 + log_alpha * (1.0F / 24))));
  return log_alpha > small ? series : 1.0F - __expf(log_alpha);
}

// One chunk of the gate as a kernel's block sees it.
template <int slots>
struct ChunkGate {
  const float* decay;  // [gsa_chunk, slots]
  GsaGateRows rows;
  int begin;  // first token
  int head;
  int length;

  __device__ ChunkGate(const GsaGates& gates, int64_t chunk, const GsaChunk& place, int of_head)
      : decay(gates.decay + (chunk * gates.heads + of_head) * chunk_rows * slots),
        rows(gates.rows),
        begin(place.begin),
        head(of_head),
        length(place.length) {}

  __device__ float at(int row, int slot) const { return decay[row * slots + slot]; }
  __device__ float end(int slot) const { return at(chunk_rows - 1, slot); }
  __device__ bool is_steep(int slot) const { return end(slot) < -GsaGates::factor_limit; }
  // Of a token and a slot that exist.
  __device__ float log_alpha(int row, int slot) const { return rows.at(begin + row, head, slot); }
  // s, likewise.
  __device__ float input(int row, int slot) const { return slot_input(log_alpha(row, slot)); }
  // s_j e^{b_t - b_j}: for steep slots, pair by pair.
  __device__ float steep_factor(int t, int j, int slot) const {
    return input(j, slot) * __expf(at(t, slot) - at(j, slot));
  }
};

// A part of a sequence: its tokens, where sequences are cut into parts of so many.
struct SequencePart {
  int sequence;  // -1: there is no such part
  int index;     // of the part in its sequence
  int begin;     // tokens of the sequence
  int end;
};

// The part number `index` of all sequences, cut into parts of `tokens` and at least `least` each;
// all lanes of a warp call it and get the same.
__device__ inline SequencePart find_part(const int32_t* offsets, int sequences, int tokens,
                                         int least, int index, int lane) {
  int before = 0;
  for (int base = 0; base < sequences; base += warp_size) {
    const int sequence = base + lane;
    const int begin = sequence < sequences ? offsets[sequence] : 0;
    const int end = sequence < sequences ? offsets[sequence + 1] : 0;
    const int parts = sequence < sequences ? max((end - begin + tokens - 1) / tokens, least) : 0;
    int through = parts;
#pragma unroll
    for (int step = 1; step < warp_size; step *= 2) {
      const int other = __shfl_up_sync(~0U, through, step);
      through += lane >= step ? other : 0;
    }
    const int first = before + through - parts;
    const unsigned found = __ballot_sync(~0U, index >= first && index < before + through);
    if (found != 0) {
      const int source = __ffs(static_cast<int>(found)) - 1;
      return {base + source, index - __shfl_sync(~0U, first, source),
              __shfl_sync(~0U, begin, source), __shfl_sync(~0U, end, source)};
    }
    before += __shfl_sync(~0U, through, warp_size - 1);
  }
  return {-1, 0, 0, 0};
}

// Chunks of the sequences before `sequence`; all lanes of a warp call it and get the sum.
__device__ inline int chunks_before(const int32_t* offsets, int sequence, int lane) {
  int sum = 0;
  for (int i = lane; i < sequence; i += warp_size) {
    sum += (offsets[i + 1] - offsets[i] + chunk_rows - 1) / chunk_rows;
  }
  return static_cast<int>(__reduce_add_sync(~0U, static_cast<unsigned>(sum)));
}

}  // namespace gsa::kernels::cuda
