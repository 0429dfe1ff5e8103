// Gated slot attention token by token, float32 arithmetic: generation, and float32 tensors.
//
// Two kernels walk along the tokens of a sequence with a state [dim, slots] in registers,
//   forward:  state = alpha_t state + x_t s_t^T      reverse:  state = alpha_{t+1} state + x_t
//   w_t^T
// and read it out over the dimensions (*by_slot*: u, dp, ds) or over the slots (*by_dim*: o, dq,
// dv, dk). Backward needs no state twice: dp and dq come from the states walked forward, the rest
// from the states' gradients walked in reverse.
//
// One step of generation reads and writes every state once, 8 bytes an element; the rest is
// nothing: B64 H4 K=V=512 M64: 134 MB, 0.04 ms at 3.3 TB/s.
#include "kernels/backends.h"
#include "kernels/cuda/gsa_activations.h"
#include "kernels/cuda/gsa_recurrent_walk.h"

namespace gsa::kernels::cuda {
namespace {

using namespace walks;

constexpr int row_threads = 256;

// A warp a row of [N * H_q, M]: u to p and u du + p dp, dp to scale du.
struct SoftmaxGradientArgs {
  int64_t rows;
  int slots;
  float scale;
  float* scores;
  float* gradients;
  float* probabilities;
};
__global__ void __launch_bounds__(row_threads)
    softmax_gradient_kernel(const SoftmaxGradientArgs args) {
  constexpr int values = int(gsa_max_slots) / warp_size;
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const int64_t row =
      int64_t(blockIdx.x) * (row_threads / warp_size) + static_cast<int>(threadIdx.x) / warp_size;
  if (row >= args.rows) {
    return;
  }
  float u[values];
  float dp[values];
  float largest = -INFINITY;
#pragma unroll
  for (int i = 0; i < values; ++i) {
    const int m = lane + i * warp_size;
    const bool exists = m < args.slots;
    u[i] = exists ? args.scores[row * args.slots + m] : -INFINITY;
    dp[i] = exists ? args.gradients[row * args.slots + m] : 0.0F;
    largest = fmaxf(largest, u[i]);
  }
#pragma unroll
  for (int step = 1; step < warp_size; step *= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(~0U, largest, step));
  }
  float sum = 0.0F;
  float mean = 0.0F;
#pragma unroll
  for (int i = 0; i < values; ++i) {
    sum += expf(u[i] - largest);
    mean += expf(u[i] - largest) * dp[i];
  }
#pragma unroll
  for (int step = 1; step < warp_size; step *= 2) {
    sum += __shfl_xor_sync(~0U, sum, step);
    mean += __shfl_xor_sync(~0U, mean, step);
  }
  mean /= sum;
#pragma unroll
  for (int i = 0; i < values; ++i) {
    const int m = lane + i * warp_size;
    if (m < args.slots) {
      const float p = expf(u[i] - largest) / sum;
      const float du = p * (dp[i] - mean);
      args.probabilities[row * args.slots + m] = p;
      args.scores[row * args.slots + m] = u[i] * du + p * dp[i];
      args.gradients[row * args.slots + m] = args.scale * du;
    }
  }
}

// output[n, h] = sum of the group's query heads of sums[n, h_q].
template <typename T>
struct GroupSumArgs {
  int64_t tokens;
  int heads;
  int group;
  const float* sums;
  HeadRows<T> output;
};
template <typename T>
__global__ void __launch_bounds__(row_threads) group_sum_kernel(const GroupSumArgs<T> args) {
  const int dim = args.output.dim;
  const int64_t index = int64_t(blockIdx.x) * row_threads + threadIdx.x;
  if (index >= args.tokens * args.heads * dim) {
    return;
  }
  const int d = static_cast<int>(index % dim);
  const int64_t row = index / dim;  // of [N, H]
  float sum = 0.0F;
  for (int member = 0; member < args.group; ++member) {
    sum += args.sums[(row * args.group + member) * dim + d];
  }
  args.output.at(row / args.heads, static_cast<int>(row % args.heads))[d] = from_float<T>(sum);
}

// The gate's gradient: a thread has a slot of a head and walks the sequence backwards. The sum over
// tokens is float64: terms of both signs cancel over the whole sequence.
struct GateGradientArgs {
  const int32_t* offsets;
  HeadRows<const float> log_alpha;
  HeadRows<float> output;
  int heads;
  int group;
  int slots;
  const float* products;  // u du + p dp, [N, H_q, M] as all that follow
  const float* key_slot_gradients;
  const float* value_slot_gradients;
  const float* key_state_products;  // [S, H_q, M]
  const float* value_state_products;
};
__global__ void gate_gradient_kernel(const GateGradientArgs args) {
  const int slot = static_cast<int>(threadIdx.x);
  const int head = static_cast<int>(blockIdx.x);
  const int64_t sequence = blockIdx.y;
  const int query_heads = args.heads * args.group;
  const auto index = [&](int64_t row, int member) {
    return (row * query_heads + head * args.group + member) * args.slots + slot;
  };
  double sum = 0.0;
  for (int member = 0; member < args.group; ++member) {
    sum += args.key_state_products[index(sequence, member)];
    sum += args.value_state_products[index(sequence, member)];
  }
  for (int token = args.offsets[sequence + 1] - 1; token >= args.offsets[sequence]; --token) {
    const float log_alpha = args.log_alpha.at(token, head)[slot];
    double gradient = 0.0;
    for (int member = 0; member < args.group; ++member) {
      const int64_t i = index(token, member);
      sum += args.products[i];
      gradient += double(args.key_slot_gradients[i]) + args.value_slot_gradients[i];
    }
    sum += expm1(double(log_alpha)) * gradient;  // - s ds
    args.output.at(token, head)[slot] = static_cast<float>(sum - exp(double(log_alpha)) * gradient);
  }
}

void require_recurrent(const GsaForward& args) {
  if (args.key_dim() > max_dim || args.slots() > gsa_max_slots || args.slots() % slot_group != 0) {
    throw std::invalid_argument(
        "the recurrent GSA on CUDA takes head dimensions up to 640 and slots that are a multiple "
        "of "
        "16 up to 128; run other sizes on the CPU");
  }
}

// The walks of one call, with everything but their roles filled in.
template <typename T>
struct Calls {
  cudaStream_t stream;
  const GsaForward& args;

  WalkArgs<T> walk(const ConstTensor& rows, int64_t row_heads) const {
    WalkArgs<T> walk{};
    walk.offsets = elements_of<int32_t>(args.sequences.offsets);
    walk.log_alpha = head_rows<float>(args.log_alpha);
    walk.rows = head_rows<T>(rows);
    walk.query_heads = static_cast<int>(args.query_heads());
    walk.heads = static_cast<int>(args.heads());
    walk.row_heads = static_cast<int>(row_heads);
    walk.slots = static_cast<int>(args.slots());
    return walk;
  }
  WalkArgs<T> keys() const {
    WalkArgs<T> walk = this->walk(args.k, args.heads());
    walk.initial = elements_of<float>(args.initial_key_state);
    walk.dim_major = true;
    return walk;
  }
  WalkArgs<T> values() const {
    WalkArgs<T> walk = this->walk(args.v, args.heads());
    walk.initial = elements_of<float>(args.initial_value_state);
    return walk;
  }
  BySlotArgs<T> by_slot(const WalkArgs<T>& walk, const ConstTensor& readers, int64_t reader_heads,
                        float* output) const {
    BySlotArgs<T> by_slot{};
    by_slot.walk = walk;
    by_slot.readers = head_rows<T>(readers);
    by_slot.reader_heads = static_cast<int>(reader_heads);
    by_slot.scale = 1.0F;
    by_slot.output = output;
    return by_slot;
  }
  ByDimArgs<T> by_dim(const WalkArgs<T>& walk, const float* weights) const {
    ByDimArgs<T> by_dim{};
    by_dim.walk = walk;
    by_dim.walk.weights = weights;
    by_dim.scale = 1.0F;
    return by_dim;
  }
  float scale() const { return static_cast<float>(args.scale); }
  int64_t sequences() const { return args.sequences.count(); }
};

template <typename T>
void forward(const Calls<T>& calls, float* scores) {
  const GsaForward& args = calls.args;
  BySlotArgs<T> u = calls.by_slot(calls.keys(), args.q, args.query_heads(), scores);
  u.scale = calls.scale();
  u.walk.final = elements_of<float>(args.final_key_state);
  walk_by_slot<false>(calls.stream, calls.sequences(), u);

  ByDimArgs<T> o = calls.by_dim(calls.values(), scores);
  o.softmax = true;
  o.output = head_rows<T>(args.output);
  o.walk.final = elements_of<float>(args.final_value_state);
  walk_by_dim<false>(calls.stream, calls.sequences(), o);
}

struct BackwardArrays {
  float* scores;
  float* gradients;
  float* probabilities;
  float* key_slot_gradients;
  float* value_slot_gradients;
  float* key_gradients;
  float* value_gradients;
  float* key_state_products;
  float* value_state_products;
};

// The states walked forward: u, dp, the softmax between them, dq.
template <typename T>
void read_states(const Calls<T>& calls, const GsaBackward& args, const BackwardArrays& arrays) {
  const GsaForward& forward = args.forward;
  BySlotArgs<T> u = calls.by_slot(calls.keys(), forward.q, forward.query_heads(), arrays.scores);
  u.scale = calls.scale();
  u.state_gradient = elements_of<float>(args.grad_final_key_state);
  u.state_products = arrays.key_state_products;
  walk_by_slot<false>(calls.stream, calls.sequences(), u);

  BySlotArgs<T> dp =
      calls.by_slot(calls.values(), args.grad_output, forward.query_heads(), arrays.gradients);
  dp.state_gradient = elements_of<float>(args.grad_final_value_state);
  dp.state_products = arrays.value_state_products;
  walk_by_slot<false>(calls.stream, calls.sequences(), dp);

  SoftmaxGradientArgs softmax{forward.q.dim(0) * forward.query_heads(),
                              static_cast<int>(forward.slots()),
                              calls.scale(),
                              arrays.scores,
                              arrays.gradients,
                              arrays.probabilities};
  if (softmax.rows > 0) {
    softmax_gradient_kernel<<<blocks_of(softmax.rows, row_threads / warp_size), row_threads, 0,
                              calls.stream>>>(softmax);
    check_launch("gsa softmax gradient");
  }
  ByDimArgs<T> dq = calls.by_dim(calls.keys(), arrays.gradients);
  dq.output = head_rows<T>(args.grad_q);
  walk_by_dim<false>(calls.stream, calls.sequences(), dq);
}

// One state's gradient walked in reverse, with `weights` w and `rows` x: what it is read out for.
template <typename T>
void read_state_gradients(const Calls<T>& calls, const ConstTensor& rows, const float* weights,
                          const ConstTensor& initial, const Tensor& final, bool dim_major,
                          const ConstTensor& written, float* slot_gradients, float* gradients) {
  const GsaForward& args = calls.args;
  WalkArgs<T> walk = calls.walk(rows, args.query_heads());
  walk.weights = weights;
  walk.initial = elements_of<float>(initial);
  walk.dim_major = dim_major;
  walk_by_slot<true>(calls.stream, calls.sequences(),
                     calls.by_slot(walk, written, args.heads(), slot_gradients));
  ByDimArgs<T> by_dim = calls.by_dim(walk, weights);
  by_dim.walk.final = elements_of<float>(final);
  by_dim.sums = gradients;
  walk_by_dim<true>(calls.stream, calls.sequences(), by_dim);
}

template <typename T>
void sum_groups(const Calls<T>& calls, const float* sums, const Tensor& output) {
  GroupSumArgs<T> args{};
  args.tokens = output.dim(0);
  args.heads = static_cast<int>(output.dim(1));
  args.group = static_cast<int>(calls.args.query_heads() / calls.args.heads());
  args.sums = sums;
  args.output = head_rows<T>(output);
  if (output.count() > 0) {
    group_sum_kernel<T>
        <<<blocks_of(output.count(), row_threads), row_threads, 0, calls.stream>>>(args);
    check_launch("gsa group sum");
  }
}

template <typename T>
void backward(const Calls<T>& calls, const GsaBackward& args, const BackwardArrays& arrays) {
  const GsaForward& forward = args.forward;
  read_states(calls, args, arrays);
  read_state_gradients(calls, args.grad_output, arrays.probabilities, args.grad_final_value_state,
                       args.grad_initial_value_state, false, forward.v, arrays.value_slot_gradients,
                       arrays.value_gradients);
  read_state_gradients(calls, forward.q, arrays.gradients, args.grad_final_key_state,
                       args.grad_initial_key_state, true, forward.k, arrays.key_slot_gradients,
                       arrays.key_gradients);
  sum_groups(calls, arrays.value_gradients, args.grad_v);
  sum_groups(calls, arrays.key_gradients, args.grad_k);

  GateGradientArgs gate;
  gate.offsets = elements_of<int32_t>(forward.sequences.offsets);
  gate.log_alpha = head_rows<float>(forward.log_alpha);
  gate.output = head_rows<float>(args.grad_log_alpha);
  gate.heads = static_cast<int>(forward.heads());
  gate.group = static_cast<int>(forward.query_heads() / forward.heads());
  gate.slots = static_cast<int>(forward.slots());
  gate.products = arrays.scores;
  gate.key_slot_gradients = arrays.key_slot_gradients;
  gate.value_slot_gradients = arrays.value_slot_gradients;
  gate.key_state_products = arrays.key_state_products;
  gate.value_state_products = arrays.value_state_products;
  const dim3 grid(static_cast<unsigned>(gate.heads), static_cast<unsigned>(calls.sequences()));
  gate_gradient_kernel<<<grid, static_cast<unsigned>(gate.slots), 0, calls.stream>>>(gate);
  check_launch("gsa gate gradient");
}

float* floats(std::byte* workspace, size_t offset) {
  return reinterpret_cast<float*>(workspace + offset);
}

}  // namespace

void gsa_recurrent_forward(Stream& stream, const GsaForward& args, std::byte* workspace) {
  if (args.projected()) {
    run_projected(stream, args, workspace, gsa_activations, gsa_recurrent_forward);
    return;
  }
  require_recurrent(args);
  if (args.sequences.count() == 0) {
    return;
  }
  const GsaRecurrentWorkspace layout(args);
  with_element(args.q.dtype(), "gsa_recurrent_forward", [&](auto element) {
    forward(Calls<decltype(element)>{native(stream), args}, floats(workspace, layout.scores));
  });
}

void gsa_recurrent_backward(Stream& stream, const GsaBackward& args, std::byte* workspace) {
  if (args.forward.projected()) {
    run_projected(stream, args, workspace, gsa_activations, gsa_recurrent_backward);
    return;
  }
  require_recurrent(args.forward);
  if (args.forward.sequences.count() == 0) {
    return;
  }
  const GsaRecurrentBackwardWorkspace layout(args.forward);
  const BackwardArrays arrays{floats(workspace, layout.scores),
                              floats(workspace, layout.probability_gradients),
                              floats(workspace, layout.probabilities),
                              floats(workspace, layout.key_slot_gradients),
                              floats(workspace, layout.value_slot_gradients),
                              floats(workspace, layout.key_gradients),
                              floats(workspace, layout.value_gradients),
                              floats(workspace, layout.key_state_products),
                              floats(workspace, layout.value_state_products)};
  with_element(args.forward.q.dtype(), "gsa_recurrent_backward", [&](auto element) {
    backward(Calls<decltype(element)>{native(stream), args.forward}, args, arrays);
  });
}

}  // namespace gsa::kernels::cuda
