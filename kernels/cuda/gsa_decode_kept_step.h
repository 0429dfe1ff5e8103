// One token of gated slot attention a sequence where states are written every few steps: the
// equations of KeptTokens (kernels/decode.h).
//
// A cluster of blocks has one (sequence, query head): a block K/c rows of the slots' keys and V/c
// columns of their values, copied to shared memory before the kernel in front has ended. A warp
// takes a token: its columns of k and v, activated, its weights e^{b_j - b_i} (1 - alpha_i) in all
// slots, its sums <k_i, q> and <p, weight_i>.
//   the block's part of u, of its rows of keys and of k; parts are added over the cluster
//   meanwhile, where it is time, both states anew, to memory
//   p = softmax(u) in every block and o = V_0^T (p e^{b_j}) + the tokens' share
// The tokens before this step's, and the step's number, were written in steps before: they are read
// ahead like the states. This step's token comes from `projected` in every block, and is kept by
// the blocks of its head's first query head, in a row that nobody reads in this step.
//
// Bytes: states read once and written once in `period` steps, kept tokens (period - 1) / 2 times:
// B64 H4 K=V=512 M64 period 8: 67 + 8 + 2 MB, 0.018 ms at 4.3 TB/s. 44 KB of shared memory a block,
// five blocks a multiprocessor: 160 KB of states on their way.
#pragma once

#include "kernels/cuda/dependent_launch.h"
#include "kernels/cuda/gsa_decode_kept.h"

namespace gsa::kernels::cuda::gsa_decode_block {

// A token's weights and its part of <k_i, q>, a warp each.
__device__ inline void weigh_tokens(const Shared& shared, int tokens, int keys, int slots) {
  const int token = warp_of_thread();
  if (token >= tokens) {
    return;
  }
  const float* log_alpha = shared.partial;
  for (int m = lane_of_thread(); m < slots; m += warp_size) {
    float since = 0.0F;  // b_j - b_i
#pragma unroll 1
    for (int later = tokens - 1; later > token; --later) {
      since += log_alpha[later * slots + m];
    }
    const float own = log_alpha[token * slots + m];
    shared.weight[token * slots + m] = expf(since) * -expm1f(own);
    if (token == 0) {
      shared.decay[m] = expf(since + own);
    }
  }
  float sum = 0.0F;
  for (int i = lane_of_thread(); i < keys; i += warp_size) {
    sum = fmaf(shared.k[token * keys + i], shared.q[i], sum);
  }
  sum = warp_reduce(sum, Add());
  if (lane_of_thread() == 0) {
    shared.sums[token] = sum;
  }
}

// Blocks tell each other their parts of u by stores that count at the barrier of the block they go
// to; that costs no fence, and none of them may end before all that it is told has come.
__device__ inline void expect_others(uint32_t barrier, int cluster, int slots) {
  if (threadIdx.x == 0) {
    init_barrier(barrier, 1);
    publish_barriers();
    arrive_expecting(barrier, (cluster - 1) * slots * int(sizeof(float)));
  }
  __syncwarp();
  cluster_arrive_relaxed();
}

// Where a block of the cluster has the part of block `from`, which is another one.
__device__ inline int seat(int from, int at) {
  return from < at ? from : from - 1;
}

// The block's part of u to one block of the cluster, the slice's group; a quad a thread.
__device__ inline void tell(const Shared& shared, const Slice& slice, int rank, int tokens,
                            int slots) {
  float4 sum{0, 0, 0, 0};
#pragma unroll 4
  for (int group = 0; group < slice.groups; ++group) {
    fma4(sum, 1.0F, quad_at(shared.partial + group * slots + slice.column));
  }
  const float4 decay = quad_at(shared.decay + slice.column);
  float4 u{decay.x * sum.x, decay.y * sum.y, decay.z * sum.z, decay.w * sum.w};
#pragma unroll 1  // registers
  for (int token = 0; token < tokens; ++token) {
    fma4(u, shared.sums[token], quad_at(shared.weight + token * slots + slice.column));
  }
  const int to = slice.group;
  if (to == rank) {
    *reinterpret_cast<float4*>(shared.p + slice.column) = u;
    return;
  }
  const float words[quad] = {u.x, u.y, u.z, u.w};
  const float* target = shared.others + seat(rank, to) * slots + slice.column;
  hand_over(address_in_block(shared_address(target), to), words,
            address_in_block(shared.barrier, to));
}

// u of a slot: the parts of all blocks, in order.
__device__ inline float add_parts(const Shared& shared, int rank, int cluster, int slots, int m) {
  float sum = 0.0F;
  for (int from = 0; from < cluster; ++from) {
    sum += from == rank ? shared.p[m] : shared.others[seat(from, rank) * slots + m];
  }
  return sum;
}

// <p, weight_i>, a warp a token.
__device__ inline void share_tokens(const Shared& shared, int tokens, int slots) {
  const int token = warp_of_thread();
  if (token >= tokens) {
    return;
  }
  float sum = 0.0F;
  for (int m = lane_of_thread(); m < slots; m += warp_size) {
    sum = fmaf(shared.p[m], shared.weight[token * slots + m], sum);
  }
  sum = warp_reduce(sum, Add());
  if (lane_of_thread() == 0) {
    shared.sums[token] = sum;
  }
}

// The thread's part of the sum over a slice's rows of factor(row) times the row.
template <typename Factor>
__device__ inline float4 add_rows(const float* state, const Slice& slice, int columns,
                                  Factor&& factor) {
  float4 sum{0, 0, 0, 0};
  if (slice.group < slice.groups) {
#pragma unroll 4
    for (int row = slice.group; row < slice.rows; row += slice.groups) {
      fma4(sum, factor(row), quad_at(state + row * columns + slice.column));
    }
  }
  return sum;
}

// Writes the thread's quads of the states with all tokens in them.
__device__ inline void write_keys(const Shared& shared, const Slice& slice, int tokens, int slots,
                                  float* state) {
  if (slice.group >= slice.groups) {
    return;
  }
  const float4 decay = quad_at(shared.decay + slice.column);
  for (int row = slice.group; row < slice.rows; row += slice.groups) {
    const int place = row * slots + slice.column;
    const float4 old = quad_at(shared.key_state + place);
    float4 key{decay.x * old.x, decay.y * old.y, decay.z * old.z, decay.w * old.w};
#pragma unroll 1  // registers
    for (int token = 0; token < tokens; ++token) {
      fma4(key, shared.k[token * slice.rows + row],
           quad_at(shared.weight + token * slots + slice.column));
    }
    __stcs(reinterpret_cast<float4*>(state + place), key);
  }
}
__device__ inline void write_values(const Shared& shared, const Slice& slice, int tokens,
                                    int values, int stride, float* state) {
  if (slice.group >= slice.groups) {
    return;
  }
  for (int slot = slice.group; slot < slice.rows; slot += slice.groups) {
    float4 value{0, 0, 0, 0};
    fma4(value, shared.decay[slot], quad_at(shared.value_state + slot * values + slice.column));
#pragma unroll 1  // registers
    for (int token = 0; token < tokens; ++token) {
      fma4(value, shared.weight[token * slice.rows + slot],
           quad_at(shared.v + token * values + slice.column));
    }
    __stcs(reinterpret_cast<float4*>(state + int64_t(slot) * stride + slice.column), value);
  }
}

// swish of o's columns, from the partial sums over the values and the tokens' shares.
template <typename T>
__device__ void write_output(const KeptArgs<T>& args, const Shared& shared, const Place& place,
                             const Slice& slice, int tokens) {
  const int first = place.query_head * args.decode.value_dim + place.rank * args.values;
  for (int column = int(threadIdx.x); column < args.values; column += threads) {
    float o = add_partial(shared.partial, slice, args.values, column);
    for (int token = 0; token < tokens; ++token) {
      o = fmaf(shared.sums[token], shared.v[token * args.values + column], o);
    }
    *args.decode.output.at(place.sequence, first + column) = from_float<T>(o * sigmoid(o));
  }
}

constexpr int blocks_a_multiprocessor = 5;

template <typename T>
__global__ void __launch_bounds__(threads, blocks_a_multiprocessor)
    kept_kernel(const KeptArgs<T> args) {
  let_next_start();
  const DecodeArgs<T>& decode = args.decode;
  const int slots = decode.slots;
  const Place place(decode);
  const Shared shared(reinterpret_cast<float*>(block_memory()), args.layout);
  const Slice key_slice(args.keys, slots);
  const Slice value_slice(slots, args.values);
  expect_others(shared.barrier, decode.cluster, slots);
  copy_state(shared.key_state, key_part(args, place), key_slice, slots, slots);
  copy_state(shared.value_state, value_part(args, place), value_slice, args.values,
             decode.value_dim);
  const Phase phase(args);
  load_kept(args, shared, place, phase);

  wait_for_previous();
  load_newest(args, shared, place, phase);
  __syncthreads();

  weigh_tokens(shared, phase.tokens(), args.keys, slots);
  wait_copies<1>();  // keys
  float4 sum = add_rows(shared.key_state, key_slice, slots, [&](int row) { return shared.q[row]; });
  __syncthreads();  // log alpha has been read
  store_partial(shared.partial, key_slice, slots, sum);
  __syncthreads();
  cluster_wait();  // all blocks expect what they are handed
  if (key_slice.group < decode.cluster) {
    tell(shared, key_slice, place.rank, phase.tokens(), slots);
  }
  wait_copies<0>();  // values
  if (phase.writes) {
    write_keys(shared, key_slice, phase.tokens(), slots, key_part(args, place));
    write_values(shared, value_slice, phase.tokens(), args.values, decode.value_dim,
                 value_part(args, place));
  }
  __syncthreads();
  if (threadIdx.x < warp_size) {
    wait_barrier(shared.barrier, 0);
    find_probabilities(slots, decode.scale, shared.p, [&](int m) {
      return add_parts(shared, place.rank, decode.cluster, slots, m);
    });
  }
  __syncthreads();

  share_tokens(shared, phase.tokens(), slots);
  sum = add_rows(shared.value_state, value_slice, args.values,
                 [&](int slot) { return shared.p[slot] * shared.decay[slot]; });
  store_partial(shared.partial, value_slice, args.values, sum);
  __syncthreads();
  write_output(args, shared, place, value_slice, phase.tokens());
}

}  // namespace gsa::kernels::cuda::gsa_decode_block
