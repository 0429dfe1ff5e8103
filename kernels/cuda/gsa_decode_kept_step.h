// One token of gated slot attention a sequence where states are written every few steps: the
// equations of KeptTokens (kernels/decode.h).
//
// A block has one (sequence, query head). One warp has its states copied into a ring in shared
// memory, chunk after chunk, from before the kernel in front has ended; kept tokens come with them.
// Eight warps take them as they come:
//   weights e^{b_j - b_i} (1 - alpha_i) and <k_i, q> of the tokens, a warp each
//   u, a thread the sum over some rows of the slots' keys, and p = softmax(u)
//   <p, weight_i>, a warp a token, and o = V_0^T (p e^{b_j}) + the tokens' share
// and where it is time write the states anew, from the quads that they see.
//
// Bytes: states read once and written once in `period` steps, kept tokens (period - 1) / 2 times:
// B64 H4 K=V=512 M64 period 8: 67 + 8 + 2 MB, 0.018 ms at 4.3 TB/s; 256 blocks, two a
// multiprocessor, with five chunks of 16 KB each, three on their way. While a block finds p, 1 us,
// the ring fills with values.
#pragma once

#include "kernels/cuda/dependent_launch.h"
#include "kernels/cuda/gsa_decode_kept.h"

namespace gsa::kernels::cuda::gsa_decode_block {

// log alpha of a token's slots, a warp a token.
template <typename T>
__device__ inline void find_gates(const KeptArgs<T>& args, const Shared<T>& shared, int tokens) {
  const int token = warp_of_thread();
  if (token >= tokens) {
    return;
  }
  const DecodeArgs<T>& decode = args.decode;
  const T* gate = shared.tokens + token * args.row + decode.key_dim + decode.value_dim;
  for (int m = lane_of_thread(); m < decode.slots; m += warp_size) {
    shared.log_alpha[token * decode.slots + m] = log_alpha_of(gate[m], decode.gate_factor);
  }
}

// A token's weights and <k_i, q>, a warp each.
template <typename T>
__device__ inline void weigh_tokens(const KeptArgs<T>& args, const Shared<T>& shared, int tokens) {
  const int token = warp_of_thread();
  if (token >= tokens) {
    return;
  }
  const int slots = args.decode.slots;
  for (int m = lane_of_thread(); m < slots; m += warp_size) {
    float since = 0.0F;  // b_j - b_i
    for (int later = tokens - 1; later > token; --later) {
      since += shared.log_alpha[later * slots + m];
    }
    const float own = shared.log_alpha[token * slots + m];
    shared.weight[token * slots + m] = expf(since) * -expm1f(own);
    if (token == 0) {
      shared.decay[m] = expf(since + own);
    }
  }
  const T* k = shared.tokens + token * args.row;
  float sum = 0.0F;
#pragma unroll 4
  for (int i = lane_of_thread(); i < args.decode.key_dim; i += warp_size) {
    sum = fmaf(swish_of(k[i]), shared.q[i], sum);
  }
  sum = warp_reduce(sum, Add());
  if (lane_of_thread() == 0) {
    shared.sums[token] = sum;
  }
}

// <p, weight_i>, a warp a token.
template <typename T>
__device__ inline void share_tokens(const Shared<T>& shared, int tokens, int slots) {
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

// A quad of a state without what has come since, to which the tokens' outer products are added.
__device__ inline float4 faded(const float4& decay, const float4& old) {
  return {decay.x * old.x, decay.y * old.y, decay.z * old.z, decay.w * old.w};
}

// The thread's part of K_0^T q, of a quad of slots; the slots' keys are written with all tokens in
// them if it `writes`.
template <bool writes, typename T>
__device__ float4 take_keys(const KeptArgs<T>& args, const Shared<T>& shared, Emptying& chunks,
                            const Slice& slice, int tokens, float* state) {
  const int slots = args.decode.slots;
  float4 decay{};
  float4 weight[max_tokens];
  if (writes && slice.group < slice.groups) {
    decay = quad_at(shared.decay + slice.column);
#pragma unroll
    for (int token = 0; token < max_tokens; ++token) {
      if (token < tokens) {
        weight[token] = quad_at(shared.weight + token * slots + slice.column);
      }
    }
  }
  float4 sum{0, 0, 0, 0};
  walk_state(shared, chunks, slice, slots, [&](int row, const float4& old) {
    fma4(sum, shared.q[row], old);
    if constexpr (writes) {
      float4 key = faded(decay, old);
#pragma unroll
      for (int token = 0; token < max_tokens; ++token) {
        if (token < tokens) {
          fma4(key, swish_of(shared.tokens[token * args.row + row]), weight[token]);
        }
      }
      __stcs(reinterpret_cast<float4*>(state + row * slots + slice.column), key);
    }
  });
  return sum;
}

// The same of the slots' values: the thread's part of V_0^T (p e^{b_j}), of a quad of columns.
template <bool writes, typename T>
__device__ float4 take_values(const KeptArgs<T>& args, const Shared<T>& shared, Emptying& chunks,
                              const Slice& slice, int tokens, float* state) {
  const int slots = args.decode.slots;
  const int values = args.decode.value_dim;
  float4 v[max_tokens];
  if (writes && slice.group < slice.groups) {
#pragma unroll
    for (int token = 0; token < max_tokens; ++token) {
      if (token < tokens) {
        const T* x = shared.tokens + token * args.row + args.decode.key_dim + slice.column;
        v[token] = {swish_of(x[0]), swish_of(x[1]), swish_of(x[2]), swish_of(x[3])};
      }
    }
  }
  float4 sum{0, 0, 0, 0};
  walk_state(shared, chunks, slice, values, [&](int slot, const float4& old) {
    fma4(sum, shared.faded[slot], old);
    if constexpr (writes) {
      const float decay = shared.decay[slot];
      float4 value = faded({decay, decay, decay, decay}, old);
#pragma unroll
      for (int token = 0; token < max_tokens; ++token) {
        if (token < tokens) {
          fma4(value, shared.weight[token * slots + slot], v[token]);
        }
      }
      __stcs(reinterpret_cast<float4*>(state + slot * values + slice.column), value);
    }
  });
  return sum;
}

// p and p e^{b_j}, by the first warp, from the partial sums over the keys and the tokens' shares.
template <typename T>
__device__ void find_p(const KeptArgs<T>& args, const Shared<T>& shared, const Slice& slice,
                       int tokens) {
  const int slots = args.decode.slots;
  find_probabilities(slots, args.decode.scale, shared.p, [&](int m) {
    float u = shared.decay[m] * add_partial(shared.partial, slice, slots, m);
    for (int token = 0; token < tokens; ++token) {
      u = fmaf(shared.sums[token], shared.weight[token * slots + m], u);
    }
    return u;
  });
  for (int m = lane_of_thread(); m < slots; m += warp_size) {
    shared.faded[m] = shared.p[m] * shared.decay[m];
  }
}

// swish of o's columns, from the partial sums over the values and the tokens' shares.
template <typename T>
__device__ void write_output(const KeptArgs<T>& args, const Shared<T>& shared, const Place& place,
                             const Slice& slice, int tokens) {
  const int values = args.decode.value_dim;
  const T* v = shared.tokens + args.decode.key_dim;
  for (int column = int(threadIdx.x); column < values; column += threads) {
    float o = add_partial(shared.partial, slice, values, column);
    for (int token = 0; token < tokens; ++token) {
      o = fmaf(shared.sums[token], swish_of(v[token * args.row + column]), o);
    }
    *args.decode.output.at(place.sequence, place.query_head * values + column) =
        from_float<T>(o * sigmoid(o));
  }
}

// The warps that compute.
template <typename T>
__device__ void compute(const KeptArgs<T>& args, const Shared<T>& shared, const Place& place) {
  const int slots = args.decode.slots;
  const Phase phase(args);
  const int tokens = phase.tokens();
  if (threadIdx.x == 0) {
    copy_kept(args, shared, place, phase, read_once());
  }
  wait_for_previous();
  load_newest(args, shared, place, phase);
  wait_barrier(shared.tokens_there(), 0);
  sync_computing();
  find_gates(args, shared, tokens);
  sync_computing();
  weigh_tokens(args, shared, tokens);
  if (phase.writes) {
    sync_computing();
  }

  const Slice key_slice(args.decode.key_dim, slots);
  const Slice value_slice(slots, args.decode.value_dim);
  Emptying chunks(args.layout.chunks);
  float* keys = key_state(args, place);
  float4 sum = phase.writes ? take_keys<true>(args, shared, chunks, key_slice, tokens, keys)
                            : take_keys<false>(args, shared, chunks, key_slice, tokens, keys);
  store_partial(shared.partial, key_slice, slots, sum);
  sync_computing();
  if (warp_of_thread() == 0) {
    find_p(args, shared, key_slice, tokens);
  }
  sync_computing();

  share_tokens(shared, tokens, slots);
  float* values = value_state(args, place);
  sum = phase.writes ? take_values<true>(args, shared, chunks, value_slice, tokens, values)
                     : take_values<false>(args, shared, chunks, value_slice, tokens, values);
  store_partial(shared.partial, value_slice, args.decode.value_dim, sum);
  sync_computing();
  write_output(args, shared, place, value_slice, tokens);
}

// The warp that copies.
template <typename T>
__device__ void copy_states(const KeptArgs<T>& args, const Shared<T>& shared, const Place& place) {
  const DecodeArgs<T>& decode = args.decode;
  const uint64_t policy = read_once();
  Filling filling(args.layout.chunks, args.layout.under_way);
  copy_state(shared, filling, key_state(args, place), decode.key_dim, decode.slots, policy);
  copy_state(shared, filling, value_state(args, place), decode.slots, decode.value_dim, policy);
}

template <typename T>
__global__ void __launch_bounds__(block_threads, 2) kept_kernel(const KeptArgs<T> args) {
  let_next_start();
  const Place place(args.decode);
  const Shared<T> shared(block_memory(), args.layout);
  if (threadIdx.x == threads) {
    shared.init_barriers(args.layout.chunks);
  }
  __syncthreads();
  if (threadIdx.x < threads) {
    compute(args, shared, place);
  } else {
    copy_states(args, shared, place);
  }
}

}  // namespace gsa::kernels::cuda::gsa_decode_block
