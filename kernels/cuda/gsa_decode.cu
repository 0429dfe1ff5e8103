// One token of gated slot attention a sequence, from the projections to the output.
//
// A cluster of blocks has one (sequence, query head): a block K/c rows of the slots' keys and V/c
// columns of their values, in registers; both are loaded before the kernel in front has ended.
//   Kt = alpha Kt + k s^T and the block's part of u = Kt^T q; parts are added over the cluster
//   Vt = alpha Vt + s v^T meanwhile, then p = softmax(u) in every block and o = Vt^T p
//
// Bytes: every state read and written once, 8 an element: B64 H4 K=V=512 M64: 134 MB, 0.031 ms at
// 4.3 TB/s; at batch 1 latency is all (32 blocks).
#include <algorithm>

#include "kernels/backends.h"
#include "kernels/cuda/dependent_launch.h"
#include "kernels/cuda/gsa_decode_host.h"

namespace gsa::kernels::cuda {
namespace {

using namespace gsa_decode_block;

struct SharedState {
  float alpha[max_slots];
  float write[max_slots];  // 1 - alpha
  float q[max_part];
  float k[max_part];
  float v[max_part];
  float partial[threads * quad];
  float u[max_slots];  // of this block's rows; read by the whole cluster
  float p[max_slots];
};

// q, k, v and the gate of this block's columns, activated.
template <typename T>
__device__ void load_token(const DecodeArgs<T>& args, SharedState& shared, int sequence,
                           int query_head, int rank) {
  const int head = query_head / (args.query_heads / args.heads);
  const int keys = args.key_dim / args.cluster;
  const int values = args.value_dim / args.cluster;
  const int k_begin = args.query_heads * args.key_dim;
  const int v_begin = k_begin + args.heads * args.key_dim;
  const int f_begin = v_begin + args.heads * args.value_dim;
  const T* row = args.projected.at(sequence, 0);
  for (int i = int(threadIdx.x); i < keys; i += threads) {
    shared.q[i] = swish_of(row[query_head * args.key_dim + rank * keys + i]);
    shared.k[i] = swish_of(row[k_begin + head * args.key_dim + rank * keys + i]);
  }
  // The other half of the threads, where they are free.
  for (int i = int(threadIdx.x ^ (threads / 2)); i < values; i += threads) {
    shared.v[i] = swish_of(row[v_begin + head * args.value_dim + rank * values + i]);
  }
  for (int m = threads - 1 - int(threadIdx.x); m < args.slots; m += threads) {
    const float log_alpha = log_alpha_of(row[f_begin + head * args.slots + m], args.gate_factor);
    shared.alpha[m] = expf(log_alpha);
    shared.write[m] = -expm1f(log_alpha);
  }
}

// `most`: quads of each state that a thread has at most.
template <typename T, int most>
__global__ void __launch_bounds__(threads, most <= 4 ? 4 : 1)
    decode_kernel(const DecodeArgs<T> args) {
  __shared__ SharedState shared;
  let_next_start();
  const int rank = args.cluster > 1 ? cluster_rank() : 0;
  const int unit = int(blockIdx.x) / args.cluster;  // sequence and query head
  const int sequence = unit / args.query_heads;
  const int keys = args.key_dim / args.cluster;
  const int values = args.value_dim / args.cluster;
  const Slice key_slice(keys, args.slots);
  const Slice value_slice(args.slots, values);
  float* key_state =
      args.key_state + (int64_t(unit) * args.key_dim + rank * keys) * args.slots + key_slice.column;
  float* value_state = args.value_state + int64_t(unit) * args.slots * args.value_dim +
                       rank * values + value_slice.column;
  float4 key[most];
  float4 value[most];
#pragma unroll
  for (int i = 0; i < most; ++i) {
    const int row = key_slice.row(i);
    if (row < key_slice.rows) {
      key[i] = __ldcs(reinterpret_cast<const float4*>(key_state + int64_t(row) * args.slots));
    }
  }
#pragma unroll
  for (int i = 0; i < most; ++i) {
    const int row = value_slice.row(i);
    if (row < value_slice.rows) {
      value[i] =
          __ldcs(reinterpret_cast<const float4*>(value_state + int64_t(row) * args.value_dim));
    }
  }

  wait_for_previous();
  load_token(args, shared, sequence, unit % args.query_heads, rank);
  __syncthreads();

  float4 sum{0, 0, 0, 0};
  if (key_slice.group < key_slice.groups) {
    const float4 alpha = *reinterpret_cast<const float4*>(shared.alpha + key_slice.column);
    const float4 write = *reinterpret_cast<const float4*>(shared.write + key_slice.column);
#pragma unroll
    for (int i = 0; i < most; ++i) {
      const int row = key_slice.row(i);
      if (row < key_slice.rows) {
        const float k = shared.k[row];
        key[i] =
            make_float4(fmaf(key[i].x, alpha.x, k * write.x), fmaf(key[i].y, alpha.y, k * write.y),
                        fmaf(key[i].z, alpha.z, k * write.z), fmaf(key[i].w, alpha.w, k * write.w));
        fma4(sum, shared.q[row], key[i]);
        __stcs(reinterpret_cast<float4*>(key_state + int64_t(row) * args.slots), key[i]);
      }
    }
  }
  store_partial(shared.partial, key_slice, args.slots, sum);
  __syncthreads();
  if (int(threadIdx.x) < args.slots) {
    shared.u[threadIdx.x] = add_partial(shared.partial, key_slice, args.slots, int(threadIdx.x));
  }
  cluster_arrive();

  if (value_slice.group < value_slice.groups) {
    const float4 v = *reinterpret_cast<const float4*>(shared.v + value_slice.column);
#pragma unroll
    for (int i = 0; i < most; ++i) {
      const int slot = value_slice.row(i);
      if (slot < value_slice.rows) {
        const float alpha = shared.alpha[slot];
        const float write = shared.write[slot];
        value[i] =
            make_float4(fmaf(value[i].x, alpha, write * v.x), fmaf(value[i].y, alpha, write * v.y),
                        fmaf(value[i].z, alpha, write * v.z), fmaf(value[i].w, alpha, write * v.w));
        __stcs(reinterpret_cast<float4*>(value_state + int64_t(slot) * args.value_dim), value[i]);
      }
    }
  }
  cluster_wait();
  if (threadIdx.x < warp_size) {
    find_probabilities(args.slots, args.scale, shared.p, [&](int m) {
      float sum = 0.0F;
      for (int other = 0; other < args.cluster; ++other) {
        sum += load_shared_in(shared_address_in(shared.u + m, other));
      }
      return sum;
    });
  }
  __syncthreads();
  cluster_arrive();  // this block has read what it needs of the others

  sum = make_float4(0, 0, 0, 0);
#pragma unroll
  for (int i = 0; i < most; ++i) {
    const int slot = value_slice.row(i);
    if (slot < value_slice.rows) {
      fma4(sum, shared.p[slot], value[i]);
    }
  }
  store_partial(shared.partial, value_slice, values, sum);
  __syncthreads();
  const int first = unit % args.query_heads * args.value_dim + rank * values;
  for (int column = int(threadIdx.x); column < values; column += threads) {
    const float o = add_partial(shared.partial, value_slice, values, column);
    *args.output.at(sequence, first + column) = from_float<T>(o * sigmoid(o));
  }
  cluster_wait();
}

// Quads of each state that a thread has at most.
int64_t quads_a_thread(const GsaDecode& args) {
  const int cluster = cluster_of(args.key_dim(), args.value_dim());
  const auto of = [](int64_t rows, int64_t columns) {
    const int64_t groups = threads / (columns / quad);
    return (rows + groups - 1) / groups;
  };
  return std::max(of(args.key_dim() / cluster, args.slots()),
                  of(args.slots(), args.value_dim() / cluster));
}

template <typename T, int most>
void run_most(Stream& stream, const GsaDecode& args) {
  const DecodeArgs<T> decode = decode_args<T>(args);
  launch_dependent(
      decode_kernel<T, most>,
      {.blocks = blocks_of(args, decode), .threads = threads, .cluster = unsigned(decode.cluster)},
      decode, stream, "gsa_decode");
}

template <typename T>
void run(Stream& stream, const GsaDecode& args) {
  constexpr int few = 4;  // K = V = 512, 64 slots
  constexpr int some = 8;
  constexpr int many = 16;
  const int64_t wanted = quads_a_thread(args);
  if (wanted <= few) {
    run_most<T, few>(stream, args);
  } else if (wanted <= some) {
    run_most<T, some>(stream, args);
  } else if (wanted <= many) {
    run_most<T, many>(stream, args);
  } else {
    throw std::invalid_argument("gsa_decode on CUDA does not take states this large: " +
                                args.key_state.shape().text());
  }
}

}  // namespace

void gsa_decode(Stream& stream, const GsaDecode& args, std::byte* /*workspace*/) {
  if (args.projected.dim(0) == 0) {
    return;
  }
  require_sizes(args);
  if (args.kept) {
    gsa_decode_kept(stream, args);
    return;
  }
  with_element(args.projected.dtype(), "gsa_decode",
               [&](auto element) { run<decltype(element)>(stream, args); });
}

}  // namespace gsa::kernels::cuda
