// One token of gated slot attention inside a decode step's kernel, by the multiplying warps.
//
// A head's keys and values are cut into parts of 64, whatever the batch: a part is 64 rows of the
// slots' keys and 64 columns of their values, 16 KB each, in registers (16 floats of each a
// thread). They are asked for before the projections are there.
//   Kt = alpha Kt + k s^T and the part's sums of u = Kt^T q, which the parts of a head tell each
//   other Vt = alpha Vt + s v^T meanwhile, then p = softmax(u) in every part and o = Vt^T p
// Parts tell each other through memory: a sum and the operation's number in one word of 64 bits, so
// that whoever reads the number has the sum. A block tells of all its parts before it waits.
#pragma once

#include "kernels/cuda/decode_step.h"

namespace gsa::kernels::cuda::decode {

inline constexpr int quad = 4;  // floats that a thread takes at once
inline constexpr int row_quads = part_dim / quad;
inline constexpr int groups =
    multiply_threads / row_quads;                     // rows of a state that are taken at once
inline constexpr int lane_quads = part_dim / groups;  // of each state, that a thread has

// Which part of a step: of a sequence's query head, with the head that its keys come from.
struct PartPlace {
  int sequence;
  int query_head;
  int head;
  int unit;  // sequence and query head
  int rank;  // of the head's parts

  __device__ PartPlace(const GsaOperation& gsa, int index) {
    const unsigned ranks = unsigned(gsa.dim) / part_dim;
    unit = int(unsigned(index) / ranks);
    rank = index - unit * int(ranks);
    sequence = int(unsigned(unit) / unsigned(gsa.query_heads));
    query_head = unit - sequence * gsa.query_heads;
    head = int(unsigned(query_head) / (unsigned(gsa.query_heads) / unsigned(gsa.heads)));
  }
};

// Where a thread's quads of a state lie: in rows `group`, `group + groups`, ...
struct QuadPlace {
  int column;
  int group;
  __device__ QuadPlace()
      : column(int(threadIdx.x) % row_quads * quad), group(int(threadIdx.x) / row_quads) {}
  __device__ int row(int i) const { return group + i * groups; }
};

// What a thread has of a part: quads of both states, where its projection is (see load_token), and
// the words of a head's sums.
struct Part {
  float* keys;
  float* values;
  uint64_t* scores;  // of the head, this thread's slot in the first part
  const bfloat16* token;
  float4 key[lane_quads];
  float4 value[lane_quads];
};

// Threads that have a part's sums at the end.
static_assert(multiply_threads == 4 * part_dim, "a thread for each of q, k, v and the gate");
__device__ inline bool takes_sums(int index) {
  return int(threadIdx.x) / part_dim == index;
}

// This thread's column of the projections: of q, k, v or the gate.
__device__ inline const bfloat16* token_of(const GsaOperation& gsa, const PartPlace& place) {
  const int thread = int(threadIdx.x);
  const int k_begin = gsa.query_heads * gsa.dim;
  const int v_begin = k_begin + gsa.heads * gsa.dim;
  const int f_begin = v_begin + gsa.heads * gsa.dim;
  const int own = place.rank * part_dim;
  const int kind = thread / part_dim;
  int column = 0;
  if (kind == 0) {
    column = place.query_head * gsa.dim + own;
  } else if (kind < 3) {
    column = (kind == 1 ? k_begin : v_begin) + place.head * gsa.dim + own;
  } else {
    column = f_begin + place.head * part_slots;
  }
  return gsa.projected + int64_t(place.sequence) * gsa.projected_stride + column +
         thread % part_dim;
}

__device__ inline void begin_part(const Step& step, const GsaOperation& gsa, const PartPlace& place,
                                  Part& part) {
  const QuadPlace quads;
  const int thread = int(threadIdx.x);
  const int ranks = int(unsigned(gsa.dim) / part_dim);
  part.keys = gsa.key_state +
              (int64_t(place.unit) * gsa.dim + place.rank * part_dim + quads.group) * part_slots +
              quads.column;
  part.values = gsa.value_state + (int64_t(place.unit) * part_slots + quads.group) * gsa.dim +
                place.rank * part_dim + quads.column;
  part.scores = step.scores + place.unit * ranks * part_slots + thread % part_slots;
  part.token = token_of(gsa, place);
#pragma unroll
  for (int i = 0; i < lane_quads; ++i) {
    part.key[i] = __ldcs(reinterpret_cast<const float4*>(part.keys + i * groups * part_slots));
    part.value[i] = __ldcs(reinterpret_cast<const float4*>(part.values + i * groups * gsa.dim));
  }
}

__device__ inline void fma4(float4& sum, float factor, const float4& x) {
  sum.x = fmaf(factor, x.x, sum.x);
  sum.y = fmaf(factor, x.y, sum.y);
  sum.z = fmaf(factor, x.z, sum.z);
  sum.w = fmaf(factor, x.w, sum.w);
}

// q, k, v and the gate of a part, activated, 64 threads each.
__device__ inline void load_token(const GsaOperation& gsa, const bfloat16* source,
                                  GsaShared::Token& token) {
  const int thread = int(threadIdx.x);
  const int j = thread % part_dim;
  const int kind = thread / part_dim;
  const float x = to_float(__ldcg(source));
  if (kind < 3) {
    float* target = kind == 0 ? token.q : kind == 1 ? token.k : token.v;
    target[j] = swish(x);
  } else {
    const float log_alpha = gsa.gate_factor * (fminf(x, 0.0F) - log1pf(expf(-fabsf(x))));
    token.alpha[j] = expf(log_alpha);
    token.write[j] = -expm1f(log_alpha);
  }
}

// Leaves a warp's sums over its rows in shared memory: its two halves have the same columns.
__device__ inline void store_partial(float (&partial)[multiply_warps][part_dim], float4 sum,
                                     const QuadPlace& place) {
  static_assert(warp_size == 2 * row_quads);
  sum.x += __shfl_xor_sync(~0U, sum.x, row_quads);
  sum.y += __shfl_xor_sync(~0U, sum.y, row_quads);
  sum.z += __shfl_xor_sync(~0U, sum.z, row_quads);
  sum.w += __shfl_xor_sync(~0U, sum.w, row_quads);
  if (threadIdx.x % warp_size < row_quads) {
    *reinterpret_cast<float4*>(&partial[threadIdx.x / warp_size][place.column]) = sum;
  }
}
__device__ inline float add_partial(const float (&partial)[multiply_warps][part_dim], int column) {
  float sum = 0.0F;
#pragma unroll
  for (int warp = 0; warp < multiply_warps; ++warp) {
    sum += partial[warp][column];
  }
  return sum;
}

__device__ inline void update_keys(Part& part, GsaShared& shared, int index) {
  const QuadPlace place;
  const GsaShared::Token& token = shared.tokens[index];
  const float4 alpha = *reinterpret_cast<const float4*>(token.alpha + place.column);
  const float4 write = *reinterpret_cast<const float4*>(token.write + place.column);
  float4 sum{0, 0, 0, 0};
#pragma unroll
  for (int i = 0; i < lane_quads; ++i) {
    const float k = token.k[place.row(i)];
    float4& key = part.key[i];
    key = make_float4(fmaf(key.x, alpha.x, k * write.x), fmaf(key.y, alpha.y, k * write.y),
                      fmaf(key.z, alpha.z, k * write.z), fmaf(key.w, alpha.w, k * write.w));
    fma4(sum, token.q[place.row(i)], key);
    __stcs(reinterpret_cast<float4*>(part.keys + i * groups * part_slots), key);
  }
  store_partial(shared.partial[index], sum, place);
}

__device__ inline void update_values(const GsaOperation& gsa, Part& part, const GsaShared& shared,
                                     int index) {
  const QuadPlace place;
  const GsaShared::Token& token = shared.tokens[index];
  const float4 v = *reinterpret_cast<const float4*>(token.v + place.column);
#pragma unroll
  for (int i = 0; i < lane_quads; ++i) {
    const float alpha = token.alpha[place.row(i)];
    const float write = token.write[place.row(i)];
    float4& value = part.value[i];
    value = make_float4(fmaf(value.x, alpha, write * v.x), fmaf(value.y, alpha, write * v.y),
                        fmaf(value.z, alpha, write * v.z), fmaf(value.w, alpha, write * v.w));
    __stcs(reinterpret_cast<float4*>(part.values + i * groups * gsa.dim), value);
  }
}

// Words of `scores`: [unit][rank][slot], a sum and the operation's number.
__device__ inline void tell_score(uint64_t* word, float sum, uint32_t number) {
  const uint64_t value = uint64_t(number) << 32 | __float_as_uint(sum);
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;\n" ::"l"(word), "l"(value) : "memory");
}
// Takes a slot's sums of two parts of the head.
__device__ inline void wait_for_scores(const uint64_t* head, int ranks, uint32_t number,
                                       float (&scores)[max_ranks][part_slots]) {
  constexpr int at_once = multiply_threads / part_slots;
  constexpr int each = max_ranks / at_once;
  const int slot = int(threadIdx.x) % part_slots;
  const int first = int(threadIdx.x) / part_slots;
  const long long begin = clock64();
  bool complete;
  do {
    complete = true;
    uint64_t values[each];
#pragma unroll
    for (int i = 0; i < each; ++i) {
      if (first + i * at_once < ranks) {
        asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];\n"
                     : "=l"(values[i])
                     : "l"(head + (first + i * at_once) * part_slots)
                     : "memory");
      }
    }
#pragma unroll
    for (int i = 0; i < each; ++i) {
      if (first + i * at_once < ranks) {
        complete = complete && uint32_t(values[i] >> 32) == number;
        scores[first + i * at_once][slot] = __uint_as_float(uint32_t(values[i]));
      }
    }
    if (clock64() - begin > hopeless_cycles) {
      __trap();
    }
  } while (!complete);
}

// p = softmax(scale * sum of the head's parts), by one warp.
__device__ inline void find_probabilities(const GsaOperation& gsa, GsaShared& shared, int index,
                                          int lane) {
  const int ranks = gsa.dim / part_dim;
  float u[2] = {};
  for (int rank = 0; rank < ranks; ++rank) {
    u[0] += shared.scores[index][rank][lane];
    u[1] += shared.scores[index][rank][lane + warp_size];
  }
  u[0] *= gsa.scale;
  u[1] *= gsa.scale;
  float largest = fmaxf(u[0], u[1]);
#pragma unroll
  for (int lanes = warp_size / 2; lanes > 0; lanes /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(~0U, largest, lanes));
  }
  u[0] = expf(u[0] - largest);
  u[1] = expf(u[1] - largest);
  float total = u[0] + u[1];
#pragma unroll
  for (int lanes = warp_size / 2; lanes > 0; lanes /= 2) {
    total += __shfl_xor_sync(~0U, total, lanes);
  }
  shared.p[index][lane] = __fdividef(u[0], total);
  shared.p[index][lane + warp_size] = __fdividef(u[1], total);
}

__device__ inline void read_values(const float4 (&value)[lane_quads], GsaShared& shared,
                                   int index) {
  const QuadPlace place;
  float4 sum{0, 0, 0, 0};
#pragma unroll
  for (int i = 0; i < lane_quads; ++i) {
    fma4(sum, shared.p[index][place.row(i)], value[i]);
  }
  store_partial(shared.partial[index], sum, place);
}

// Calls `f(index)` for each part with a constant: what parts have stays in registers.
template <int parts, int index = 0, typename F>
__device__ inline void for_parts(F&& f) {
  if constexpr (index < parts) {
    f(Width<index>());
    for_parts<parts, index + 1>(f);
  }
}

// The multiplying warps' part in a GSA step, of a block that has `count` parts.
// `wait_for_input()` comes back when the projections are there.
template <int count, typename WaitForInput>
__device__ void gsa_step(const Step& step, int operation_number, GsaShared& shared,
                         WaitForInput&& wait_for_input) {
  const Operation& operation = step.operations[operation_number];
  const GsaOperation& gsa = operation.gsa;
  const uint32_t number = uint32_t(operation_number) + 1;
  const int first = first_unit(operation);
  const int blocks = int(gridDim.x);
  const int thread = int(threadIdx.x);
  const int ranks = int(unsigned(gsa.dim) / part_dim);
  Part parts[count];
  uint64_t* told = nullptr;  // this thread's sum
  bfloat16* output = nullptr;
  for_parts<count>([&]<int index>(Width<index>) {
    const PartPlace place(gsa, first + index * blocks);
    begin_part(step, gsa, place, parts[index]);
    if (takes_sums(index)) {
      told = parts[index].scores + place.rank * part_slots;
      output = gsa.output + int64_t(place.sequence) * gsa.output_stride +
               place.query_head * gsa.dim + place.rank * part_dim + thread % part_dim;
    }
  });
  wait_for_input();
  for_parts<count>(
      [&]<int index>(Width<index>) { load_token(gsa, parts[index].token, shared.tokens[index]); });
  sync_multiplying();
  for_parts<count>([&]<int index>(Width<index>) { update_keys(parts[index], shared, index); });
  sync_multiplying();
  for_parts<count>([&]<int index>(Width<index>) {
    if (takes_sums(index)) {
      tell_score(told, add_partial(shared.partial[index], thread % part_slots), number);
    }
  });
  for_parts<count>(
      [&]<int index>(Width<index>) { update_values(gsa, parts[index], shared, index); });
  for_parts<count>([&]<int index>(Width<index>) {
    wait_for_scores(parts[index].scores, ranks, number, shared.scores[index]);
  });
  sync_multiplying();
  if (thread / warp_size < count) {
    find_probabilities(gsa, shared, thread / warp_size, thread % warp_size);
  }
  sync_multiplying();
  for_parts<count>(
      [&]<int index>(Width<index>) { read_values(parts[index].value, shared, index); });
  sync_multiplying();
  for_parts<count>([&]<int index>(Width<index>) {
    if (takes_sums(index)) {
      const float o = add_partial(shared.partial[index], thread % part_dim);
      *output = from_float<bfloat16>(swish(o));
    }
  });
}

}  // namespace gsa::kernels::cuda::decode
