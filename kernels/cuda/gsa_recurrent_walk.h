// The two kernels of gsa_recurrent.cu that walk along the tokens of a sequence with a state in
// registers, and read it out over the dimensions or over the slots.
#pragma once

#include "kernels/cuda/gsa_kernels.h"

namespace gsa::kernels::cuda::walks {

inline constexpr int max_dim = 640;
inline constexpr int slot_group = 16;  // slots of a by-slot block
inline constexpr int dim_lanes = 16;   // threads that share a slot's dimensions
inline constexpr int by_slot_threads = slot_group * dim_lanes;
inline constexpr int by_dim_threads = 64;  // one dimension each

// What both walks take. [N, H_q, M] arrays are float32 and contiguous.
template <typename T>
struct WalkArgs {
  const int32_t* offsets;
  HeadRows<const float> log_alpha;  // [N, H, M]
  HeadRows<const T> rows;           // x, [N, row heads, dim]
  const float* weights;             // w in reverse; forward, what by_dim reads with
  const float* initial;             // [S, H_q, dim, M] or [S, H_q, M, dim]; or null
  float* final;                     // or null; may be `initial`
  bool dim_major;                   // initial and final are [dim, M]
  int query_heads;
  int heads;      // of log_alpha
  int row_heads;  // of rows
  int slots;
};

template <typename T>
struct BySlotArgs {
  WalkArgs<T> walk;
  HeadRows<const T> readers;  // y, [N, reader heads, dim]
  int reader_heads;
  float scale;
  float* output;                // [N, H_q, M]: scale * sum_d state[d, m] y_t[d]
  const float* state_gradient;  // of the final state, laid out as it; or null
  float* state_products;        // [S, H_q, M]: final state times its gradient, summed; or null
};

template <typename T>
struct ByDimArgs {
  WalkArgs<T> walk;
  bool softmax;  // weights are scores whose softmax is read with
  float scale;
  HeadRows<T> output;  // scale * sum_m state[d, m] w_t[m], by query head
  float* sums;         // in reverse: [N, H_q, dim] sum_m state[d, m] s_t[m]
};

// Where a block is: a sequence and a query head.
template <typename T>
struct Walk {
  const WalkArgs<T>& args;
  int sequence;
  int query_head;
  int begin;
  int length;
  int head;
  int row_head;

  __device__ Walk(const WalkArgs<T>& walk, int of_sequence, int of_query_head)
      : args(walk),
        sequence(of_sequence),
        query_head(of_query_head),
        begin(walk.offsets[of_sequence]),
        length(walk.offsets[of_sequence + 1] - begin),
        head(of_query_head / (walk.query_heads / walk.heads)),
        row_head(of_query_head / (walk.query_heads / walk.row_heads)) {}

  __device__ int64_t state(int slot, int d) const {
    const int64_t base =
        (int64_t(sequence) * args.query_heads + query_head) * args.slots * args.rows.dim;
    return base +
           (args.dim_major ? int64_t(d) * args.slots + slot : int64_t(slot) * args.rows.dim + d);
  }
  __device__ int64_t by_slot(int token, int slot) const {
    return (int64_t(token) * args.query_heads + query_head) * args.slots + slot;
  }
  __device__ float log_alpha(int token, int slot) const {
    return args.log_alpha.at(token, head)[slot];
  }
  template <bool reverse>
  __device__ int token(int i) const {
    return begin + (reverse ? length - 1 - i : i);
  }
  // What the state fades by before the i-th token of the walk is added.
  template <bool reverse>
  __device__ float fade(int i, int slot) const {
    if (reverse && i == 0) {
      return 1.0F;
    }
    return expf(log_alpha(token<reverse>(i) + (reverse ? 1 : 0), slot));
  }
};

template <typename T, int per_thread>
__device__ void load_slot_state(const Walk<T>& walk, int slot, int first,
                                float (&state)[per_thread]) {
#pragma unroll
  for (int i = 0; i < per_thread; ++i) {
    const int d = first + i * dim_lanes;
    const bool exists = walk.args.initial != nullptr && d < walk.args.rows.dim;
    state[i] = exists ? walk.args.initial[walk.state(slot, d)] : 0.0F;
  }
}

// Stores the final state and returns this thread's part of its product with its gradient.
template <bool reverse, typename T, int per_thread>
__device__ float finish_slot_state(const Walk<T>& walk, const float* state_gradient, int slot,
                                   int first, const float (&state)[per_thread]) {
  const float last_fade =
      reverse && walk.length > 0 ? expf(walk.log_alpha(walk.begin, slot)) : 1.0F;
  float product = 0.0F;
#pragma unroll
  for (int i = 0; i < per_thread; ++i) {
    const int d = first + i * dim_lanes;
    if (d < walk.args.rows.dim) {
      if (state_gradient != nullptr) {
        product += state[i] * state_gradient[walk.state(slot, d)];
      }
      if (walk.args.final != nullptr) {
        walk.args.final[walk.state(slot, d)] = last_fade * state[i];
      }
    }
  }
  return product;
}

// A block has 16 slots of a state; a thread one slot and every 16th dimension.
template <typename T, bool reverse, int per_thread>
__global__ void __launch_bounds__(by_slot_threads) by_slot_kernel(const BySlotArgs<T> args) {
  __shared__ float x[max_dim];
  __shared__ float y[max_dim];
  __shared__ float partial[dim_lanes][slot_group];
  const Walk<T> walk(args.walk, static_cast<int>(blockIdx.z), static_cast<int>(blockIdx.y));
  const int thread = static_cast<int>(threadIdx.x);
  const int column = thread % slot_group;
  const int first = thread / slot_group;
  const int slot = static_cast<int>(blockIdx.x) * slot_group + column;
  const int dim = args.walk.rows.dim;
  const int reader_head = walk.query_head / (args.walk.query_heads / args.reader_heads);
  float state[per_thread];
#pragma unroll
  for (int i = 0; i < per_thread; ++i) {
    const int d = first + i * dim_lanes;
    state[i] =
        args.walk.initial != nullptr && d < dim ? args.walk.initial[walk.state(slot, d)] : 0.0F;
  }
  const auto sum_over_dims = [&](float value) {
    partial[first][column] = value;
    __syncthreads();
    float sum = 0.0F;
#pragma unroll
    for (int i = 0; i < dim_lanes; ++i) {
      sum += partial[i][column];
    }
    return sum;
  };
  for (int i = 0; i < walk.length; ++i) {
    const int token = walk.template token<reverse>(i);
    for (int d = thread; d < dim; d += by_slot_threads) {
      x[d] = to_float(args.walk.rows.at(token, walk.row_head)[d]);
      y[d] = to_float(args.readers.at(token, reader_head)[d]);
    }
    const float fade = walk.template fade<reverse>(i, slot);
    const float weight = reverse ? args.walk.weights[walk.by_slot(token, slot)]
                                 : slot_input(walk.log_alpha(token, slot));
    __syncthreads();
    float sum = 0.0F;
#pragma unroll
    for (int k = 0; k < per_thread; ++k) {
      const int d = first + k * dim_lanes;
      if (d < dim) {
        state[k] = fade * state[k] + x[d] * weight;
        sum += state[k] * y[d];
      }
    }
    sum = sum_over_dims(sum);
    if (first == 0) {
      args.output[walk.by_slot(token, slot)] = args.scale * sum;
    }
  }
  float product = finish_slot_state<reverse>(walk, args.state_gradient, slot, first, state);
  if (args.state_products != nullptr) {
    __syncthreads();
    product = sum_over_dims(product);
    if (first == 0) {
      const int64_t state_head = int64_t(walk.sequence) * args.walk.query_heads + walk.query_head;
      args.state_products[state_head * args.walk.slots + slot] = product;
    }
  }
}

// Softmax of `count` values in shared memory, by one warp, in place.
__device__ inline void softmax_in_warp(float* values, int count, int lane) {
  float largest = -INFINITY;
  for (int i = lane; i < count; i += warp_size) {
    largest = fmaxf(largest, values[i]);
  }
#pragma unroll
  for (int step = 1; step < warp_size; step *= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(~0U, largest, step));
  }
  float sum = 0.0F;
  for (int i = lane; i < count; i += warp_size) {
    values[i] = expf(values[i] - largest);
    sum += values[i];
  }
#pragma unroll
  for (int step = 1; step < warp_size; step *= 2) {
    sum += __shfl_xor_sync(~0U, sum, step);
  }
  for (int i = lane; i < count; i += warp_size) {
    values[i] /= sum;
  }
}

// A block has 64 dimensions of a state; a thread one dimension and all slots.
template <typename T, bool reverse, int max_slots>
__global__ void __launch_bounds__(by_dim_threads) by_dim_kernel(const ByDimArgs<T> args) {
  __shared__ float fade[max_slots];
  __shared__ float input[max_slots];   // what x is written with
  __shared__ float reader[max_slots];  // what the state is read with
  const Walk<T> walk(args.walk, static_cast<int>(blockIdx.z), static_cast<int>(blockIdx.y));
  const int thread = static_cast<int>(threadIdx.x);
  const int d = static_cast<int>(blockIdx.x) * by_dim_threads + thread;
  const int dim = args.walk.rows.dim;
  const int slots = args.walk.slots;
  const bool exists = d < dim;
  float state[max_slots];
#pragma unroll
  for (int m = 0; m < max_slots; ++m) {
    state[m] = args.walk.initial != nullptr && exists && m < slots
                   ? args.walk.initial[walk.state(m, d)]
                   : 0.0F;
  }
  for (int m = thread; m < max_slots; m += by_dim_threads) {
    fade[m] = input[m] = reader[m] = 0.0F;
  }
  for (int i = 0; i < walk.length; ++i) {
    const int token = walk.template token<reverse>(i);
    __syncthreads();
    for (int m = thread; m < slots; m += by_dim_threads) {
      const float s = slot_input(walk.log_alpha(token, m));
      const float weight = args.walk.weights[walk.by_slot(token, m)];
      fade[m] = walk.template fade<reverse>(i, m);
      input[m] = reverse ? weight : s;
      reader[m] = reverse ? s : weight;
    }
    const float x = exists ? to_float(args.walk.rows.at(token, walk.row_head)[d]) : 0.0F;
    __syncthreads();
    if (args.softmax) {
      if (thread < warp_size) {
        softmax_in_warp(reader, slots, thread);
      }
      __syncthreads();
    }
    float sum = 0.0F;
#pragma unroll
    for (int m = 0; m < max_slots; ++m) {
      state[m] = fade[m] * state[m] + x * input[m];
      sum += state[m] * reader[m];
    }
    if (exists) {
      if (reverse) {
        args.sums[(int64_t(token) * args.walk.query_heads + walk.query_head) * dim + d] = sum;
      } else {
        args.output.at(token, walk.query_head)[d] = from_float<T>(args.scale * sum);
      }
    }
  }
  if (args.walk.final != nullptr && exists) {
#pragma unroll
    for (int m = 0; m < max_slots; ++m) {
      if (m < slots) {
        const float last_fade =
            reverse && walk.length > 0 ? expf(walk.log_alpha(walk.begin, m)) : 1.0F;
        args.walk.final[walk.state(m, d)] = last_fade * state[m];
      }
    }
  }
}

template <bool reverse, typename T>
void walk_by_slot(cudaStream_t stream, int64_t sequences, const BySlotArgs<T>& args) {
  constexpr int small = 8;
  constexpr int medium = 32;
  constexpr int large = max_dim / dim_lanes;
  const dim3 grid(static_cast<unsigned>(args.walk.slots / slot_group),
                  static_cast<unsigned>(args.walk.query_heads), static_cast<unsigned>(sequences));
  const int dim = args.walk.rows.dim;
  if (dim <= small * dim_lanes) {
    by_slot_kernel<T, reverse, small><<<grid, by_slot_threads, 0, stream>>>(args);
  } else if (dim <= medium * dim_lanes) {
    by_slot_kernel<T, reverse, medium><<<grid, by_slot_threads, 0, stream>>>(args);
  } else {
    by_slot_kernel<T, reverse, large><<<grid, by_slot_threads, 0, stream>>>(args);
  }
  check_launch("gsa recurrent, by slot");
}

template <bool reverse, typename T>
void walk_by_dim(cudaStream_t stream, int64_t sequences, const ByDimArgs<T>& args) {
  const dim3 grid(blocks_of(args.walk.rows.dim, by_dim_threads),
                  static_cast<unsigned>(args.walk.query_heads), static_cast<unsigned>(sequences));
  if (args.walk.slots <= gsa_tile) {
    by_dim_kernel<T, reverse, 64><<<grid, by_dim_threads, 0, stream>>>(args);
  } else {
    by_dim_kernel<T, reverse, 128><<<grid, by_dim_threads, 0, stream>>>(args);
  }
  check_launch("gsa recurrent, by dimension");
}

}  // namespace gsa::kernels::cuda::walks
