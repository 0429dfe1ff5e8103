// Gated slot attention in chunks on the tensor cores: bfloat16 operands; gates, softmax, states
// within a scan and all sums in float32.
//
//   forward:   gates -> forward (states at the chunks' starts by a scan; u, p, o)
//   backward: [gates -> forward for states and u, where nothing was kept]
//              read (dp, du, dq) -> walk (dk, dv, gradients of the states)
//              -> finish (d log alpha)
//
// All but the scan and the walk are parallel over chunks. No sum depends on an order that could
// change: the same bits every time. Float32 tensors go through the recurrence (gsa_recurrent.cu),
// whose rounding is float32's; tensor cores round their operands to 11 bits at best.
#include "kernels/backends.h"
#include "kernels/cuda/gsa_kernels.h"

namespace gsa::kernels::cuda {
namespace {

template <typename T>
T* part(std::byte* workspace, size_t offset) {
  return reinterpret_cast<T*>(workspace + offset);
}

void require(bool condition, const char* what) {
  if (!condition) {
    throw std::invalid_argument(what);
  }
}

// What the tensor cores' form asks beyond GsaForward::check.
void require_supported(const GsaForward& args) {
  constexpr int64_t multiple = 16;
  require(args.key_dim() % multiple == 0 && args.value_dim() % multiple == 0,
          "GSA on CUDA takes head dimensions that are multiples of 16; choose another number of "
          "heads, or run on the CPU");
  require(args.slots() % multiple == 0 && args.slots() <= gsa_max_slots,
          "GSA on CUDA takes slots that are a multiple of 16, at most 128; change model.slots, or "
          "run on the CPU");
  require(are_aligned(args.q, args.k, args.v),
          "GSA on CUDA takes q, k and v whose rows begin at multiples of 16 bytes");
}

GsaGateRows gate_rows(const GsaForward& args) {
  GsaGateRows rows{};
  if (args.projected()) {
    rows.logits = head_rows<bfloat16>(args.gate_logits);
    rows.inverse_normalizer = static_cast<float>(1 / args.gate_normalizer);
  } else {
    rows.log_alpha = head_rows<float>(args.log_alpha);
  }
  return rows;
}

// One forward call taken apart: sizes, where the gates and the kept things lie.
struct ForwardParts {
  const GsaForward& args;
  GsaSizes sizes;
  GsaGates gates;
  bfloat16* key_states;
  bfloat16* value_states;
  uint32_t* state_scores;
  uint32_t* key_products;
  float* segment_states;
  float* segment_decays;
  GsaFlow flow;
};

// Of a forward or a backward workspace.
template <typename Layout>
ForwardParts take_apart(const GsaForward& args, std::byte* workspace, const Layout& layout) {
  const GsaSizes sizes(args);
  const GsaSaved saved(sizes);
  const GsaGateParts& gates = saved.gates;
  require(!args.saved || args.saved.bytes() >= saved.bytes,
          "what GSA keeps for its backward pass needs gsa_chunked_saved_bytes of memory");
  std::byte* kept =
      args.saved ? static_cast<std::byte*>(args.saved.data()) : workspace + layout.saved;
  return {args,
          sizes,
          {part<GsaChunk>(kept, gates.chunks), part<float>(kept, gates.decay),
           part<bfloat16>(kept, gates.key_gate), part<bfloat16>(kept, gates.end_key_gate),
           gate_rows(args), static_cast<int>(sizes.heads), static_cast<int>(args.slots())},
          part<bfloat16>(kept, saved.key_states),
          part<bfloat16>(kept, saved.value_states),
          part<uint32_t>(kept, saved.state_scores),
          part<uint32_t>(kept, saved.key_products),
          part<float>(workspace, layout.segments.states),
          part<float>(workspace, layout.segments.decays),
          {part<int>(workspace, layout.flow.next), part<int>(workspace, layout.flow.stored),
           part<int>(workspace, layout.flow.order)}};
}

void run_gates(cudaStream_t stream, const ForwardParts& parts) {
  const GsaForward& args = parts.args;
  GsaGateArgs gates;
  gates.offsets = elements_of<int32_t>(args.sequences.offsets);
  gates.sequences = static_cast<int>(args.sequences.count());
  gates.rows = parts.gates.rows;
  gates.heads = parts.gates.heads;
  gates.slots = parts.gates.slots;
  gates.chunks = const_cast<GsaChunk*>(parts.gates.chunks);
  gates.decay = const_cast<float*>(parts.gates.decay);
  gates.key_gate = const_cast<bfloat16*>(parts.gates.key_gate);
  gates.end_key_gate = const_cast<bfloat16*>(parts.gates.end_key_gate);
  gates.next = parts.flow.next;
  gates.stored = parts.flow.stored;
  gates.order = const_cast<int*>(parts.flow.order);
  gates.state_heads = static_cast<int>(parts.sizes.state_heads);
  gates.segment_chunks = static_cast<int>(GsaSegments(parts.sizes, parts.sizes.state_heads).chunks);
  launch_gsa_gates(stream, parts.sizes, gates);
}

// How the scan over the states of `scan.heads` is cut, and where its passes meet.
void set_segments(GsaScanArgs& scan, const ForwardParts& parts) {
  const GsaSegments segments(parts.sizes, scan.heads);
  scan.sequences = static_cast<int>(parts.sizes.sequences);
  scan.segment_chunks = static_cast<int>(segments.chunks);
  scan.segments = static_cast<int>(segments.count);
  scan.segment_states = parts.segment_states;
  scan.segment_decays = parts.segment_decays;
}

GsaReadArgs read_args(const ForwardParts& parts) {
  GsaReadArgs read{};
  read.gates = parts.gates;
  read.projected = parts.args.projected();
  read.scale = static_cast<float>(parts.args.scale);
  read.query_heads = static_cast<int>(parts.sizes.query_heads);
  read.state_heads = static_cast<int>(parts.sizes.state_heads);
  return read;
}

GsaReadSide key_side(const ForwardParts& parts) {
  return {head_rows<bfloat16>(parts.args.k), parts.key_states,
          static_cast<int>(parts.sizes.key_dim)};
}
GsaReadSide value_side(const ForwardParts& parts) {
  return {head_rows<bfloat16>(parts.args.v), parts.value_states,
          static_cast<int>(parts.sizes.value_dim)};
}

// States at the chunks' starts, and the final ones if wanted.
GsaScanArgs state_scan(const ForwardParts& parts, bool wants_final) {
  const GsaForward& args = parts.args;
  const auto side = [&](const ConstTensor& rows, bfloat16* states, const ConstTensor& initial,
                        const Tensor& final, int64_t padded_dim, bool dim_major) {
    GsaScanPart scan;
    scan.rows = head_rows<bfloat16>(rows);
    scan.weights = parts.gates.end_key_gate;
    scan.states = states;
    scan.initial = elements_of<float>(initial);
    scan.final = wants_final ? elements_of<float>(final) : nullptr;
    scan.padded_dim = static_cast<int>(padded_dim);
    scan.dim_major = dim_major;
    scan.activate = args.projected();
    return scan;
  };
  GsaScanArgs scan;
  scan.offsets = elements_of<int32_t>(args.sequences.offsets);
  scan.keys = side(args.k, parts.key_states, args.initial_key_state, args.final_key_state,
                   parts.sizes.key_dim, true);
  scan.values = side(args.v, parts.value_states, args.initial_value_state, args.final_value_state,
                     parts.sizes.value_dim, false);
  scan.decay = parts.gates.decay;
  scan.slots = parts.gates.slots;
  scan.gate_heads = parts.gates.heads;
  scan.heads = static_cast<int>(parts.sizes.state_heads);
  scan.query_heads = static_cast<int>(parts.sizes.query_heads);
  scan.row_heads = parts.gates.heads;
  scan.weight_heads = parts.gates.heads;
  set_segments(scan, parts);
  return scan;
}

// The states, and with an output o. Scores are kept where the backward pass will find them.
void run_forward(cudaStream_t stream, const ForwardParts& parts, HeadRows<bfloat16> output,
                 bool wants_final, bool keeps_scores) {
  GsaReadArgs read = read_args(parts);
  read.queries = head_rows<bfloat16>(parts.args.q);
  read.first = key_side(parts);
  read.second = value_side(parts);
  read.output = output;
  read.state_scores = keeps_scores ? parts.state_scores : nullptr;
  read.key_products = keeps_scores ? parts.key_products : nullptr;
  launch_gsa_forward(stream, parts.sizes, state_scan(parts, wants_final), read, parts.flow);
}

void run_backward_read(cudaStream_t stream, const ForwardParts& parts, const GsaBackward& args,
                       std::byte* workspace, const GsaBackwardWorkspace& layout) {
  GsaReadArgs read = read_args(parts);
  read.queries = head_rows<bfloat16>(args.grad_output);
  read.first = value_side(parts);
  read.second = key_side(parts);
  read.output = head_rows<bfloat16>(args.grad_q);
  read.output_inputs = head_rows<bfloat16>(parts.args.q);
  read.probabilities = part<bfloat16>(workspace, layout.probabilities);
  read.score_gradients = part<bfloat16>(workspace, layout.score_gradients);
  read.gated_probabilities = part<bfloat16>(workspace, layout.gated_probabilities);
  read.gated_gradients = part<bfloat16>(workspace, layout.gated_gradients);
  read.state_scores = parts.state_scores;
  read.key_products = parts.key_products;
  read.value_weights = part<bfloat16>(workspace, layout.value_weights);
  read.key_weights = part<bfloat16>(workspace, layout.key_weights);
  read.own_gradients = part<float>(workspace, layout.own_gradients);
  read.own_totals = part<float>(workspace, layout.own_totals);
  launch_gsa_read(stream, parts.sizes, read);
}

// The walk writes dk and dv, by query head where those walk apart.
void run_walk(cudaStream_t stream, const ForwardParts& parts, const GsaBackward& args,
              std::byte* workspace, const GsaBackwardWorkspace& layout, const GsaWalkPlan& plan) {
  const bool sums_groups = plan.sums_groups(parts.sizes);
  const auto gradient = [&](const Tensor& wanted, size_t by_query_head) {
    const HeadRows<bfloat16> rows = head_rows<bfloat16>(wanted);
    return sums_groups ? HeadRows<bfloat16>{part<bfloat16>(workspace, by_query_head),
                                            plan.heads * rows.dim, rows.dim}
                       : rows;
  };
  GsaWalkArgs walk{.plan = plan, .gates = parts.gates};
  walk.offsets = elements_of<int32_t>(parts.args.sequences.offsets);
  walk.sequences = parts.args.sequences.count();
  walk.tokens = parts.args.q.dim(0);
  walk.sides[0] = {head_rows<bfloat16>(parts.args.v),
                   head_rows<bfloat16>(args.grad_output),
                   part<bfloat16>(workspace, layout.value_weights),
                   part<bfloat16>(workspace, layout.gated_probabilities),
                   parts.value_states,
                   gradient(args.grad_v, layout.value_gradients),
                   elements_of<float>(args.grad_final_value_state),
                   elements_of<float>(args.grad_initial_value_state),
                   static_cast<int>(parts.sizes.value_dim),
                   false,
                   parts.args.projected(),
                   false};
  walk.sides[1] = {head_rows<bfloat16>(parts.args.k),
                   head_rows<bfloat16>(parts.args.q),
                   part<bfloat16>(workspace, layout.key_weights),
                   part<bfloat16>(workspace, layout.gated_gradients),
                   parts.key_states,
                   gradient(args.grad_k, layout.key_gradients),
                   elements_of<float>(args.grad_final_key_state),
                   elements_of<float>(args.grad_initial_key_state),
                   static_cast<int>(parts.sizes.key_dim),
                   true,
                   parts.args.projected(),
                   parts.args.projected()};
  walk.query_heads = static_cast<int>(parts.sizes.query_heads);
  walk.state_heads = static_cast<int>(parts.sizes.state_heads);
  walk.written_products = part<float>(workspace, layout.written_products);
  walk.state_products = part<float>(workspace, layout.state_products);
  walk.segment_states = part<float>(workspace, layout.walk_states);
  walk.segment_decays = part<float>(workspace, layout.walk_decays);
  walk.team_flags = part<int>(workspace, layout.walk_flags);
  launch_gsa_walk(stream, parts.sizes, walk);
  if (sums_groups) {
    const int heads = static_cast<int>(parts.sizes.heads);
    const int group = static_cast<int>(plan.heads) / heads;
    launch_gsa_group_sum(stream, {walk.sides[0].gradient.data, head_rows<bfloat16>(args.grad_v),
                                  walk.tokens, heads, group});
    launch_gsa_group_sum(stream, {walk.sides[1].gradient.data, head_rows<bfloat16>(args.grad_k),
                                  walk.tokens, heads, group});
  }
}

void run_finish(cudaStream_t stream, const ForwardParts& parts, const GsaBackward& args,
                std::byte* workspace, const GsaBackwardWorkspace& layout, const GsaWalkPlan& plan) {
  GsaFinishArgs finish{};
  finish.gates = parts.gates;
  finish.offsets = elements_of<int32_t>(parts.args.sequences.offsets);
  finish.sequences = static_cast<int>(parts.sizes.sequences);
  finish.own_gradients = part<float>(workspace, layout.own_gradients);
  finish.own_totals = part<float>(workspace, layout.own_totals);
  finish.written_products = part<float>(workspace, layout.written_products);
  finish.state_products = part<float>(workspace, layout.state_products);
  if (parts.args.projected()) {
    finish.logit_gradient = head_rows<bfloat16>(args.grad_gate_logits);
  } else {
    finish.gradient = head_rows<float>(args.grad_log_alpha);
  }
  finish.own_heads = static_cast<int>(parts.sizes.query_heads / parts.sizes.side_by_side);
  finish.walk_heads = static_cast<int>(plan.heads);
  finish.slices = static_cast<int>(plan.slices);
  finish.written_parts = static_cast<int>(plan.written_parts);
  launch_gsa_finish(stream, parts.sizes, finish);
}

}  // namespace

void gsa_chunked_forward(Stream& stream, const GsaForward& args, std::byte* workspace) {
  if (!gsa_uses_tensor_cores(args)) {
    gsa_recurrent_forward(stream, args, workspace);
    return;
  }
  require_supported(args);
  require(is_aligned(args.output),
          "GSA on CUDA takes an output whose rows begin at multiples of 16 bytes");
  const GsaForwardWorkspace layout(args);
  const ForwardParts parts = take_apart(args, workspace, layout);
  run_gates(native(stream), parts);
  run_forward(native(stream), parts, head_rows<bfloat16>(args.output), true, bool(args.saved));
}

void gsa_chunked_backward(Stream& stream, const GsaBackward& args, std::byte* workspace) {
  if (!gsa_uses_tensor_cores(args.forward)) {
    gsa_recurrent_backward(stream, args, workspace);
    return;
  }
  require_supported(args.forward);
  require(are_aligned(args.grad_output, args.grad_q, args.grad_k, args.grad_v),
          "GSA on CUDA takes gradients whose rows begin at multiples of 16 bytes");
  const GsaBackwardWorkspace layout(args);
  const GsaWalkPlan plan(args);
  const ForwardParts parts = take_apart(args.forward, workspace, layout);
  if (!args.forward.saved) {
    run_gates(native(stream), parts);
    run_forward(native(stream), parts, {}, false, true);
  }
  run_backward_read(native(stream), parts, args, workspace, layout);
  run_walk(native(stream), parts, args, workspace, layout, plan);
  run_finish(native(stream), parts, args, workspace, layout, plan);
}

}  // namespace gsa::kernels::cuda
