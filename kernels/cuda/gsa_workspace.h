// How the GSA operations on CUDA divide their workspaces and what they keep for the backward pass.
// Plain C++, no CUDA: sizes follow from shapes alone.
//
// Inside the kernels everything lies by chunk: `[chunks, heads, gsa_chunk, slots]` for what a token
// has by slot, `[chunks, heads, slots, dim]` for states, with slots padded to 64 or 128 and
// dimensions to a multiple of 64. Tokens past the end of a sequence have gate 1 and input 0.
#pragma once

#include "kernels/cuda/workspace.h"
#include "kernels/gsa.h"

namespace gsa::kernels::cuda {

// Columns of the tiles that the tensor cores work on.
inline constexpr int64_t gsa_tile = 64;
inline constexpr int64_t gsa_max_slots = 128;
inline constexpr size_t bfloat16_bytes = 2;

inline int64_t gsa_round_up(int64_t value) {
  return (value + gsa_tile - 1) / gsa_tile * gsa_tile;
}

// The sizes that a call has in the kernels' own layout.
struct GsaSizes {
  int64_t sequences;
  int64_t chunks;
  int64_t query_heads;
  int64_t heads;
  int64_t state_heads;  // without initial states the query heads of a group share their states
  int64_t slots;        // padded
  int64_t key_dim;      // padded
  int64_t value_dim;    // padded

  explicit GsaSizes(const GsaForward& args)
      : sequences(args.sequences.count()),
        chunks(args.sequences.chunks()),
        query_heads(args.query_heads()),
        heads(args.heads()),
        state_heads(args.initial_key_state || args.initial_value_state ? args.query_heads()
                                                                       : args.heads()),
        slots(gsa_round_up(args.slots())),
        key_dim(gsa_round_up(args.key_dim())),
        value_dim(gsa_round_up(args.value_dim())) {}

  // Elements of a tensor [chunks, head_count, gsa_chunk, slots].
  size_t by_slot(int64_t head_count) const {
    return size_t(chunks * head_count * gsa_chunk * slots);
  }
  // Elements of the states at the chunks' boundaries, [chunks, head_count, slots, dim].
  size_t states(int64_t head_count, int64_t dim) const {
    return size_t(chunks * head_count * slots * dim);
  }
};

// Where a scan has too few heads and sequences to fill a GPU, it cuts sequences into segments of
// equal numbers of chunks. A matter of shapes alone, so that results are too.
struct GsaSegments {
  static constexpr int64_t blocks_wanted = 512;  // of the scan: 4 on each of 128 multiprocessors
  static constexpr int64_t least_chunks = 8;     // of a segment
  static constexpr int64_t whole = int64_t{1} << 20;

  int64_t chunks = whole;  // a segment
  int64_t count;           // of all sequences, at most
  size_t states = 0;       // elements of GsaScanArgs::segment_states
  size_t decays = 0;       // of segment_decays

  // Of a scan over the states of `heads` heads.
  GsaSegments(const GsaSizes& sizes, int64_t heads) : count(sizes.sequences) {
    const int64_t dims = sizes.key_dim + sizes.value_dim;
    const int64_t blocks = sizes.sequences * heads * (dims / gsa_tile);
    if (blocks == 0 || 2 * blocks > blocks_wanted) {
      return;
    }
    const int64_t wanted = blocks_wanted / blocks * sizes.sequences;
    const int64_t chunks_each = std::max((sizes.chunks + wanted - 1) / wanted, least_chunks);
    if (sizes.chunks <= chunks_each * sizes.sequences) {
      return;
    }
    chunks = chunks_each;
    count += sizes.chunks / chunks;
    states = size_t(count * heads * sizes.slots * dims);
    decays = size_t(count * heads * sizes.slots);
  }
};

// What the chunked forward pass may keep: the states at the start of every chunk, which cost most,
// and u, from which p follows.
struct GsaSaved {
  size_t key_states;    // [chunks, state_heads, slots, key_dim] bfloat16
  size_t value_states;  // [chunks, state_heads, slots, value_dim] bfloat16
  size_t scores;        // [chunks, query_heads, gsa_chunk, slots] float32: u
  size_t bytes;

  explicit GsaSaved(const GsaSizes& sizes) {
    WorkspaceLayout layout;
    key_states = layout.add(sizes.states(sizes.state_heads, sizes.key_dim) * bfloat16_bytes);
    value_states = layout.add(sizes.states(sizes.state_heads, sizes.value_dim) * bfloat16_bytes);
    scores = layout.add(sizes.by_slot(sizes.query_heads) * sizeof(float));
    bytes = layout.end();
  }
};

// What gates.cu makes of the forget gate, by chunk.
struct GsaGateParts {
  size_t chunks;        // [chunks] GsaChunk
  size_t decay;         // [chunks, heads, gsa_chunk, slots] float32: b, relative (GsaGates)
  size_t key_gate;      // the same shape, bfloat16: s e^-b
  size_t end_key_gate;  // the same shape, bfloat16: s e^(b_end - b)

  static constexpr size_t chunk_bytes = 16;

  GsaGateParts(WorkspaceLayout& layout, const GsaSizes& sizes)
      : chunks(layout.add(size_t(sizes.chunks) * chunk_bytes)),
        decay(layout.add(sizes.by_slot(sizes.heads) * sizeof(float))),
        key_gate(layout.add(sizes.by_slot(sizes.heads) * bfloat16_bytes)),
        end_key_gate(layout.add(sizes.by_slot(sizes.heads) * bfloat16_bytes)) {}
};

// What a scan by segments leaves between its passes; empty where it is not by segments.
struct GsaSegmentParts {
  size_t states;
  size_t decays;

  GsaSegmentParts(WorkspaceLayout& layout, const GsaSegments& segments)
      : states(layout.add(segments.states * sizeof(float))),
        decays(layout.add(segments.decays * sizeof(float))) {}
};

// What orders the blocks of the forward kernel: int32.
struct GsaFlowParts {
  size_t next;    // [1]
  size_t stored;  // [chunks, state_heads]
  size_t order;   // [chunks]

  GsaFlowParts(WorkspaceLayout& layout, const GsaSizes& sizes)
      : next(layout.add(sizeof(int32_t))),
        stored(layout.add(size_t(sizes.chunks * sizes.state_heads) * sizeof(int32_t))),
        order(layout.add(size_t(sizes.chunks) * sizeof(int32_t))) {}
};

struct GsaForwardWorkspace {
  WorkspaceLayout layout;
  GsaGateParts gates;
  GsaSegmentParts segments;
  GsaFlowParts flow;
  size_t saved;  // GsaSaved, where the caller keeps nothing
  size_t bytes;

  explicit GsaForwardWorkspace(const GsaForward& args)
      : GsaForwardWorkspace(args, GsaSizes(args)) {}

 private:
  GsaForwardWorkspace(const GsaForward& args, const GsaSizes& sizes)
      : gates(layout, sizes),
        segments(layout, GsaSegments(sizes, sizes.state_heads)),
        flow(layout, sizes),
        saved(layout.add(args.saved ? 0 : GsaSaved(sizes).bytes)),
        bytes(layout.end()) {}
};

struct GsaBackwardWorkspace {
  WorkspaceLayout layout;
  GsaGateParts gates;
  GsaSegmentParts segments;    // of the scan in reverse, and of the forward one
  GsaFlowParts flow;           // of the forward pass, if it runs again
  size_t saved;                // GsaSaved, computed again where the caller kept nothing
  size_t products;             // [chunks, H_q, gsa_chunk, slots] float32: p dp + u du
  size_t probabilities;        // the same shape, bfloat16: p
  size_t score_gradients;      // p's gradient through the softmax, scale du
  size_t gated_probabilities;  // p e^b
  size_t gated_gradients;      // scale du e^b
  size_t key_state_gradients;  // [chunks, H_q, slots, key_dim] bfloat16, at the chunks' ends
  size_t value_state_gradients;
  size_t group_sums;  // [chunks, H, key_dim + value_dim, gsa_chunk] float32, of grouped heads only
  size_t bytes;

  explicit GsaBackwardWorkspace(const GsaForward& args)
      : gates(layout, GsaSizes(args)),
        segments(layout, larger_segments(GsaSizes(args))),
        flow(layout, GsaSizes(args)) {
    const GsaSizes sizes(args);
    const int64_t heads = sizes.query_heads;
    const size_t operand = sizes.by_slot(heads) * bfloat16_bytes;
    const bool grouped = sizes.query_heads != sizes.heads;
    saved = layout.add(args.saved ? 0 : GsaSaved(sizes).bytes);
    products = layout.add(sizes.by_slot(heads) * sizeof(float));
    probabilities = layout.add(operand);
    score_gradients = layout.add(operand);
    gated_probabilities = layout.add(operand);
    gated_gradients = layout.add(operand);
    key_state_gradients = layout.add(sizes.states(heads, sizes.key_dim) * bfloat16_bytes);
    value_state_gradients = layout.add(sizes.states(heads, sizes.value_dim) * bfloat16_bytes);
    group_sums = layout.add(grouped ? size_t(sizes.chunks * sizes.heads * gsa_chunk) *
                                          size_t(sizes.key_dim + sizes.value_dim) * sizeof(float)
                                    : 0);
    bytes = layout.end();
  }

 private:
  static GsaSegments larger_segments(const GsaSizes& sizes) {
    const GsaSegments forward(sizes, sizes.state_heads);
    const GsaSegments reverse(sizes, sizes.query_heads);
    return forward.states > reverse.states ? forward : reverse;
  }
};

// The recurrent form: float32 throughout, by token.
struct GsaRecurrentWorkspace {
  WorkspaceLayout layout;
  size_t scores;  // [N, H_q, M]: u
  size_t bytes;

  explicit GsaRecurrentWorkspace(const GsaForward& args)
      : scores(layout.add(by_slot(args))), bytes(layout.end()) {}

  static size_t by_slot(const GsaForward& args) {
    return size_t(args.q.dim(0) * args.query_heads() * args.slots()) * sizeof(float);
  }
};

struct GsaRecurrentBackwardWorkspace {
  WorkspaceLayout layout;
  size_t scores;                 // [N, H_q, M]: u, then u du + p dp
  size_t probability_gradients;  // dp, then scale du
  size_t probabilities;          // p
  size_t key_slot_gradients;     // ds of the first pass
  size_t value_slot_gradients;   // ds of the second pass
  size_t key_gradients;          // [N, H_q, K]: dk by query head
  size_t value_gradients;        // [N, H_q, V]
  size_t key_state_products;     // [S, H_q, M]: final state times its gradient, summed over K
  size_t value_state_products;
  size_t bytes;

  explicit GsaRecurrentBackwardWorkspace(const GsaForward& args) {
    const size_t rows = size_t(args.q.dim(0) * args.query_heads());
    const size_t by_slot = GsaRecurrentWorkspace::by_slot(args);
    const size_t by_sequence =
        size_t(args.sequences.count() * args.query_heads() * args.slots()) * sizeof(float);
    scores = layout.add(by_slot);
    probability_gradients = layout.add(by_slot);
    probabilities = layout.add(by_slot);
    key_slot_gradients = layout.add(by_slot);
    value_slot_gradients = layout.add(by_slot);
    key_gradients = layout.add(rows * size_t(args.key_dim()) * sizeof(float));
    value_gradients = layout.add(rows * size_t(args.value_dim()) * sizeof(float));
    key_state_products = layout.add(by_sequence);
    value_state_products = layout.add(by_sequence);
    bytes = layout.end();
  }
};

// Whether the chunked form runs on the tensor cores; float32 is computed by the recurrence.
inline bool gsa_uses_tensor_cores(const GsaForward& args) {
  return args.q.dtype() == DType::bfloat16;
}

}  // namespace gsa::kernels::cuda
