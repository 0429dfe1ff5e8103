// How the GSA operations on CUDA divide their workspaces and what they keep for the backward pass.
// Plain C++, no CUDA: sizes follow from shapes alone.
//
// Inside the kernels everything lies by chunk: `[chunks, heads, gsa_chunk, slots]` for what a token
// has by slot, `[chunks, heads, slots, dim]` for states, with slots padded to 64 or 128 and
// dimensions to a multiple of 64. Tokens past the end of a sequence have gate 1 and input 0.
#pragma once

#include <algorithm>
#include <span>

#include "kernels/cuda/workspace.h"
#include "kernels/gsa.h"

namespace gsa::kernels::cuda {

// Columns of the tiles that the tensor cores work on.
inline constexpr int64_t gsa_tile = 64;
inline constexpr int64_t gsa_max_slots = 128;
inline constexpr size_t bfloat16_bytes = 2;
inline constexpr size_t float16_bytes = 2;

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
  // Query heads that a block of a read-out takes side by side: two of a group where they share
  // states, and where shared memory has room.
  int64_t side_by_side;

  explicit GsaSizes(const GsaForward& args)
      : sequences(args.sequences.count()),
        chunks(args.sequences.chunks()),
        query_heads(args.query_heads()),
        heads(args.heads()),
        state_heads(args.initial_key_state || args.initial_value_state ? args.query_heads()
                                                                       : args.heads()),
        slots(gsa_round_up(args.slots())),
        key_dim(gsa_round_up(args.key_dim())),
        value_dim(gsa_round_up(args.value_dim())),
        side_by_side(slots == gsa_tile && query_heads / state_heads % 2 == 0 ? 2 : 1) {}

  // Elements of a tensor [chunks, head_count, gsa_chunk, slots].
  size_t by_slot(int64_t head_count) const {
    return size_t(chunks * head_count * gsa_chunk * slots);
  }
  // Elements of a tensor [chunks, head_count, gsa_chunk, gsa_chunk].
  size_t by_token(int64_t head_count) const {
    return size_t(chunks * head_count * gsa_chunk * gsa_chunk);
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
    if (blocks == 0 || 2 * blocks >= blocks_wanted) {
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

// What the chunked forward pass may keep: the states at the start of every chunk, which cost most,
// the gates, and u in two parts. What a chunk's own tokens give follows from the gates and their
// products, to float32's rounding, as the gate's gradient needs it; what the state gives is rounded
// to float16. Both lie strip by strip as a warp has them (gsa_read_strip.h).
struct GsaSaved {
  WorkspaceLayout layout;
  GsaGateParts gates;
  size_t key_states;    // [chunks, state_heads, slots, key_dim] bfloat16
  size_t value_states;  // [chunks, state_heads, slots, value_dim] bfloat16
  size_t state_scores;  // [chunks, query_heads, gsa_chunk, slots] float16: scale e^b (Q K_0)
  size_t key_products;  // [chunks, query_heads, gsa_chunk, gsa_chunk] bfloat16: tril(Q K^T)
  size_t bytes;

  explicit GsaSaved(const GsaSizes& sizes) : gates(layout, sizes) {
    key_states = layout.add(sizes.states(sizes.state_heads, sizes.key_dim) * bfloat16_bytes);
    value_states = layout.add(sizes.states(sizes.state_heads, sizes.value_dim) * bfloat16_bytes);
    state_scores = layout.add(sizes.by_slot(sizes.query_heads) * float16_bytes);
    key_products = layout.add(sizes.by_token(sizes.query_heads) * bfloat16_bytes);
    bytes = layout.end();
  }
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
  GsaSegmentParts segments;
  GsaFlowParts flow;
  size_t saved;  // GsaSaved, where the caller keeps nothing
  size_t bytes;

  explicit GsaForwardWorkspace(const GsaForward& args)
      : GsaForwardWorkspace(args, GsaSizes(args)) {}

 private:
  GsaForwardWorkspace(const GsaForward& args, const GsaSizes& sizes)
      : segments(layout, GsaSegments(sizes, sizes.state_heads)),
        flow(layout, sizes),
        saved(layout.add(args.saved ? 0 : GsaSaved(sizes).bytes)),
        bytes(layout.end()) {}
};

// How the backward pass walks along the sequences (gsa_walk.cu). A block has a slice of the keys'
// or values' dimensions of a head, and a segment of a sequence's chunks; segments only where
// sequences are too few and long to fill a GPU.
struct GsaWalkPlan {
  // The sum over tokens of the gate's gradient starts anew at the end of every so many chunks.
  static constexpr int64_t anchor_chunks = 4;
  static constexpr int64_t wanted_blocks = 128;
  static constexpr int64_t shortest_segment = 4;
  static constexpr int64_t clusters_at_once = 66;  // of two blocks, on an H100 or H200
  static constexpr int64_t warpgroups = 2;         // a block, side by side along its dimensions

  int64_t heads;    // the key/value heads; the query heads where each has states of its own
  int64_t columns;  // of a warpgroup
  int64_t key_slices;
  int64_t value_slices;
  int64_t slices;   // both
  int64_t cluster;  // blocks, slices side by side, that add up X G^T between them: two or one
  int64_t written_parts;
  int64_t segment_chunks;
  int64_t segments;  // of the longest sequence
  // Clusters that share out the chunks of all walks; 0: each walk has a cluster of its own. The
  // bits are the same.
  int64_t teams;

  explicit GsaWalkPlan(const GsaBackward& args) {
    const GsaSizes sizes(args.forward);
    const bool has_states = sizes.state_heads != sizes.heads || args.grad_final_key_state ||
                            args.grad_final_value_state || args.grad_initial_key_state ||
                            args.grad_initial_value_state;
    heads = has_states ? sizes.query_heads : sizes.heads;
    const bool is_wide =
        sizes.slots == gsa_tile && sizes.key_dim > 2 * gsa_tile && sizes.value_dim > 2 * gsa_tile;
    columns = is_wide ? 2 * gsa_tile : gsa_tile;
    const int64_t width = warpgroups * columns;
    key_slices = (sizes.key_dim + width - 1) / width;
    value_slices = (sizes.value_dim + width - 1) / width;
    slices = key_slices + value_slices;
    cluster = slices % 2 == 0 ? 2 : 1;
    written_parts = slices / cluster;
    int64_t longest = 0;
    const std::span<const int32_t> offsets = args.forward.sequences.host;
    for (size_t i = 1; i < offsets.size(); ++i) {
      longest = std::max(longest, (offsets[i] - offsets[i - 1] + gsa_chunk - 1) / gsa_chunk);
    }
    const int64_t shared = std::max(
        shortest_segment, (sizes.chunks * heads * slices + wanted_blocks - 1) / wanted_blocks);
    segment_chunks = 2 * longest > 3 * shared ? shared : std::max<int64_t>(longest, 1);
    segments = (longest + segment_chunks - 1) / segment_chunks;
    const int64_t walks = sizes.sequences * heads * slices / 2;
    const int64_t rounds = (walks + clusters_at_once - 1) / clusters_at_once;
    const bool leaves_gaps = 10 * walks < 9 * rounds * clusters_at_once;
    teams = cluster == 2 && segments == 1 && rounds > 1 && leaves_gaps && !has_states
                ? clusters_at_once
                : 0;
  }

  // Whether query heads of one key/value head walk apart and their dk and dv are summed afterwards.
  bool sums_groups(const GsaSizes& sizes) const { return heads != sizes.heads; }
};

struct GsaBackwardWorkspace {
  WorkspaceLayout layout;
  GsaSegmentParts segments;  // of the scan
  GsaFlowParts flow;         // of the forward pass, if it runs again
  size_t saved;              // GsaSaved, computed again where the caller kept nothing
  // Of the gate, by query heads that a block reads side by side, in float32:
  size_t own_gradients;  // [chunks, blocks, gsa_chunk, slots]: as far as the chunk's own tokens go
  size_t own_totals;     // [chunks, blocks, slots]: p dp + u du - s ds of them, summed
  size_t probabilities;  // [chunks, H_q, gsa_chunk, slots], bfloat16, of steep chunks: p
  size_t score_gradients;      // p's gradient through the softmax, scale du
  size_t gated_probabilities;  // the same of all chunks: p e^b
  size_t gated_gradients;      // scale du e^b
  size_t value_weights;        // [chunks, H_q, gsa_chunk, gsa_chunk] bfloat16: tril((p e^b) g^T)
  size_t key_weights;          // tril((scale du e^b) g^T)
  // Of the walk, by walking head and slice:
  size_t written_products;  // [chunks, heads, parts, gsa_chunk, slots] float32: X G^T
  size_t state_products;    // [chunks, heads, slices, warpgroups, slots] float32: sum_d S G
  size_t walk_states;  // [S, segments, heads, slices] or [teams, cluster] states in float32, by
                       //   thread
  size_t walk_decays;
  size_t walk_flags;     // [teams, cluster] int32
  size_t key_gradients;  // [N, heads, K] bfloat16: dk by query head, where those walk
  size_t value_gradients;
  size_t bytes;

  explicit GsaBackwardWorkspace(const GsaBackward& args)
      : GsaBackwardWorkspace(args, GsaSizes(args.forward)) {}

 private:
  GsaBackwardWorkspace(const GsaBackward& args, const GsaSizes& sizes)
      : segments(layout, GsaSegments(sizes, sizes.state_heads)), flow(layout, sizes) {
    const GsaWalkPlan plan(args);
    const int64_t heads = sizes.query_heads;
    const size_t operand = sizes.by_slot(heads) * bfloat16_bytes;
    const size_t weights = sizes.by_token(heads) * bfloat16_bytes;
    saved = layout.add(args.forward.saved ? 0 : GsaSaved(sizes).bytes);
    const int64_t readers = heads / sizes.side_by_side;
    own_gradients = layout.add(sizes.by_slot(readers) * sizeof(float));
    own_totals = layout.add(size_t(sizes.chunks * readers * sizes.slots) * sizeof(float));
    probabilities = layout.add(operand);
    score_gradients = layout.add(operand);
    gated_probabilities = layout.add(operand);
    gated_gradients = layout.add(operand);
    value_weights = layout.add(weights);
    key_weights = layout.add(weights);
    const int64_t slices = plan.heads * plan.slices;
    written_products = layout.add(sizes.by_slot(plan.heads * plan.written_parts) * sizeof(float));
    state_products = layout.add(
        size_t(sizes.chunks * slices * GsaWalkPlan::warpgroups * sizes.slots) * sizeof(float));
    const int64_t blocks = plan.segments > 1
                               ? args.forward.sequences.count() * plan.segments * slices
                               : plan.teams * plan.cluster;
    const int64_t columns = GsaWalkPlan::warpgroups * plan.columns;
    walk_states = layout.add(size_t(blocks * columns * sizes.slots) * sizeof(float));
    walk_decays =
        layout.add(size_t(blocks * GsaWalkPlan::warpgroups * 4 * sizes.slots) * sizeof(float));
    walk_flags = layout.add(size_t(plan.teams * plan.cluster) * sizeof(int32_t));
    const bool sums = plan.sums_groups(sizes);
    const size_t rows = sums ? size_t(args.forward.q.dim(0) * plan.heads) : 0;
    key_gradients = layout.add(rows * size_t(args.forward.key_dim()) * bfloat16_bytes);
    value_gradients = layout.add(rows * size_t(args.forward.value_dim()) * bfloat16_bytes);
    bytes = layout.end();
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
