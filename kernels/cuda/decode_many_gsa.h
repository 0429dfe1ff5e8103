// Gated slot attention inside the kernel of a decode step of many sequences.
//
// A group of blocks has a unit: a block 64 keys and 64 values of each slot, which come through the
// ring one after the other. Teams take the block's units in turn, each on its own:
//   Kt = alpha Kt + k s^T and the part's sums of u = Kt^T q, which the group's blocks read from
//   each other's shared memory; p = softmax(u) in every warp; Vt = alpha Vt + s v^T and o = Vt^T p
// While one team waits for the other blocks' sums, the others have their units. New states go
// straight from registers to memory.
#pragma once

#include "kernels/cuda/decode_many.h"

namespace gsa::kernels::cuda::decode {

inline constexpr int quad_floats = 4;
inline constexpr int row_quads = many_part / quad_floats;
inline constexpr int quad_groups = warpgroup_threads / row_quads;  // rows that are taken at once
inline constexpr int thread_quads = many_part / quad_groups;       // of a slot
static_assert(many_part == many_slots, "both states' parts lie in the same way");
static_assert(warp_size == 2 * row_quads, "a warp's two halves have the same columns");

template <typename Filler>
__device__ void copy_states(const ManyStep& step, int number, Filler& filler) {
  const ManyOperation& operation = step.operations[number];
  const GsaOperation& gsa = operation.gsa;
  const UnitPlace units(operation);
  const int part = int(blockIdx.x % unsigned(operation.split));
  for (int i = 0; i < units.count; ++i) {
    const int unit = units.unit(i);
    const auto keys = filler.begin(slot_bytes);
    copy_bytes(keys.target,
               gsa.key_state + (int64_t(unit) * gsa.dim + part * many_part) * many_slots,
               slot_bytes, keys.full, filler.policy());
    const auto values = filler.begin(slot_bytes);
    copy_matrix_box(values.target, step.maps[number], part * many_part, unit * many_slots, 0,
                    values.full, filler.policy());
  }
}

// A unit's place in the projections: which sequence's and which heads' columns.
struct TokenPlace {
  const bfloat16* row;
  int query_head;
  int head;

  __device__ TokenPlace(const GsaOperation& gsa, int unit) {
    const int sequence = int(unsigned(unit) / unsigned(gsa.query_heads));
    query_head = unit - sequence * gsa.query_heads;
    head = int(unsigned(query_head) / (unsigned(gsa.query_heads) / unsigned(gsa.heads)));
    row = gsa.projected + int64_t(sequence) * gsa.projected_stride;
  }
};

// The parts of the units' tokens, activated: eight of q, k or v a thread, and four gates a thread,
// beginning with the last one.
__device__ inline void load_tokens(const GsaOperation& gsa, const UnitPlace& units, int part,
                                   float* memory) {
  constexpr int part_pieces = many_part / vector_width;
  constexpr int pieces = 3 * part_pieces;
  constexpr int gate_pieces = many_slots / 4;
  const int k_begin = gsa.query_heads * gsa.dim;
  const int v_begin = k_begin + gsa.heads * gsa.dim;
  const int f_begin = v_begin + gsa.heads * gsa.dim;
  for (int at = int(threadIdx.x); at < units.count * pieces; at += taking_threads) {
    const int i = at / pieces;
    const int kind = at % pieces / part_pieces;
    const int element = at % part_pieces * vector_width;
    const TokenPlace place(gsa, units.unit(i));
    const int begin = kind == 0 ? place.query_head * gsa.dim
                                : (kind == 1 ? k_begin : v_begin) + place.head * gsa.dim;
    const uint4 loaded =
        __ldcg(reinterpret_cast<const uint4*>(place.row + begin + part * many_part + element));
    const auto* x = reinterpret_cast<const bfloat16*>(&loaded);
    float* token = memory + GsaWork::tokens + i * GsaWork::token + kind * many_part + element;
#pragma unroll
    for (int j = 0; j < vector_width; ++j) {
      token[j] = swish(to_float(x[j]));
    }
  }
  for (int at = taking_threads - 1 - int(threadIdx.x); at < units.count * gate_pieces;
       at += taking_threads) {
    const int i = at / gate_pieces;
    const int element = at % gate_pieces * 4;
    const TokenPlace place(gsa, units.unit(i));
    const uint2 loaded = __ldcg(
        reinterpret_cast<const uint2*>(place.row + f_begin + place.head * many_slots + element));
    const auto* x = reinterpret_cast<const bfloat16*>(&loaded);
    float* alpha = memory + GsaWork::tokens + i * GsaWork::token + 3 * many_part + element;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float value = to_float(x[j]);
      const float log_alpha = gsa.gate_factor * (fminf(value, 0.0F) - log1pf(expf(-fabsf(value))));
      alpha[j] = expf(log_alpha);
      alpha[many_slots + j] = -expm1f(log_alpha);
    }
  }
}

__device__ inline void fma4(float4& sum, float factor, const float4& x) {
  sum.x = fmaf(factor, x.x, sum.x);
  sum.y = fmaf(factor, x.y, sum.y);
  sum.z = fmaf(factor, x.z, sum.z);
  sum.w = fmaf(factor, x.w, sum.w);
}

// A team's place in a unit: which of its threads this is, and where its quads of a slot lie, in
// rows `group`, `group + quad_groups`, ...
struct TeamPlace {
  int team;
  int thread;
  int column;
  int group;

  __device__ TeamPlace()
      : team(__shfl_sync(~0U, int(threadIdx.x) / warpgroup_threads, 0)),
        thread(int(threadIdx.x) % warpgroup_threads),
        column(thread % row_quads * quad_floats),
        group(thread / row_quads) {}
  __device__ int row(int i) const { return group + i * quad_groups; }
  __device__ void sync() const { sync_threads(2 + team, warpgroup_threads); }
  // This team's sums of one kind, [warps][64].
  __device__ float* sums(float* memory, int kind) const {
    return memory + kind + team * GsaWork::team_warps * many_slots;
  }
};

// Waits for a slot, takes the thread's quads of it, and leaves it.
__device__ inline void take_slot(const ManyShared& shared, const RingPlace& at,
                                 const TeamPlace& place, float4 (&x)[thread_quads]) {
  wait_for_slot(shared, at);
  const float* source = reinterpret_cast<const float*>(shared.slot(at.slot)) + place.column;
#pragma unroll
  for (int i = 0; i < thread_quads; ++i) {
    x[i] = *reinterpret_cast<const float4*>(source + place.row(i) * many_slots);
  }
  __syncwarp();
  if (threadIdx.x % warp_size == 0) {
    arrive(shared.empty(at.slot));
  }
}

// Leaves a warp's sums over its rows in shared memory.
__device__ inline void store_sums(float* sums, const TeamPlace& place, float4 sum) {
  sum.x += __shfl_xor_sync(~0U, sum.x, row_quads);
  sum.y += __shfl_xor_sync(~0U, sum.y, row_quads);
  sum.z += __shfl_xor_sync(~0U, sum.z, row_quads);
  sum.w += __shfl_xor_sync(~0U, sum.w, row_quads);
  if (place.thread % warp_size < row_quads) {
    *reinterpret_cast<float4*>(sums + place.thread / warp_size * many_slots + place.column) = sum;
  }
}
// Their total, a thread a column.
__device__ inline float add_sums(const float* sums, int column) {
  return (sums[column] + sums[many_slots + column]) +
         (sums[2 * many_slots + column] + sums[3 * many_slots + column]);
}

// Sends a number to another block's shared memory, and counts its bytes at a barrier there.
__device__ inline void send(uint32_t target, float x, uint32_t barrier) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.f32 [%0], %1, [%2];\n" ::"r"(target),
      "f"(x), "r"(barrier)
      : "memory");
}

// The phases of a team's barriers of scores.
struct ScorePhases {
  int phases = 0;  // a bit a buffer
  __device__ int take(int buffer) {
    const int phase = phases >> buffer & 1;
    phases ^= 1 << buffer;
    return phase;
  }
};

// A lane's two probabilities, of slots lane and lane + 32: softmax(scale * sum over parts of u).
struct LaneProbabilities {
  float p[many_slots / warp_size];

  __device__ LaneProbabilities(float scale, const float* scores, int split) {
    constexpr int count = many_slots / warp_size;
    const int lane = int(threadIdx.x) % warp_size;
    float largest = -INFINITY;
#pragma unroll
    for (int i = 0; i < count; ++i) {
      p[i] = 0.0F;
#pragma unroll
      for (int of = 0; of < many_cluster; ++of) {
        p[i] += of < split ? scores[of * many_slots + i * warp_size + lane] : 0.0F;
      }
      p[i] *= scale;
      largest = fmaxf(largest, p[i]);
    }
    largest = warp_reduce(largest, Max());
    float total = 0.0F;
#pragma unroll
    for (int i = 0; i < count; ++i) {
      p[i] = expf(p[i] - largest);
      total += p[i];
    }
    total = warp_reduce(total, Add());
#pragma unroll
    for (int i = 0; i < count; ++i) {
      p[i] = __fdividef(p[i], total);
    }
  }
};

// Sends this part's scores of a team's unit to all blocks of the group, this one included.
__device__ inline void send_scores(const ManyShared& shared, const TeamPlace& place,
                                   const float* sums, float* scores, int split, int part,
                                   int buffer) {
  const uint32_t told = shared_address(&shared.fixed->scores[place.team][buffer]);
  if (place.thread == warpgroup_threads - 1) {
    arrive_expecting(told, split * many_slots * int(sizeof(float)));
  }
  if (place.thread < many_slots) {
    const float u = add_sums(sums, place.thread);
    const int first_rank = cluster_rank() - part;
    const uint32_t own = shared_address(scores + part * many_slots + place.thread);
    for (int to = 0; to < split; ++to) {
      send(address_in_block(own, first_rank + to), u, address_in_block(told, first_rank + to));
    }
  }
}

// A unit's part, by a team.
__device__ inline void take_unit(const ManyOperation& operation, int unit, int part,
                                 const float* token, float* memory, const ManyShared& shared,
                                 RingPlace at, const TeamPlace& place, int buffer, int phase) {
  const GsaOperation& gsa = operation.gsa;
  const float* q = token;
  const float* k = token + many_part;
  const float* gate = token + 3 * many_part;  // alpha, then 1 - alpha
  float* scores =
      memory + GsaWork::scores + (place.team * score_buffers + buffer) * many_cluster * many_slots;
  float4 x[thread_quads];
  take_slot(shared, at, place, x);
  const float4 alpha = *reinterpret_cast<const float4*>(gate + place.column);
  const float4 write = *reinterpret_cast<const float4*>(gate + many_slots + place.column);
  float* keys =
      gsa.key_state + (int64_t(unit) * gsa.dim + part * many_part) * many_slots + place.column;
  float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll
  for (int i = 0; i < thread_quads; ++i) {
    const int row = place.row(i);
    const float key = k[row];
    x[i] = make_float4(fmaf(x[i].x, alpha.x, key * write.x), fmaf(x[i].y, alpha.y, key * write.y),
                       fmaf(x[i].z, alpha.z, key * write.z), fmaf(x[i].w, alpha.w, key * write.w));
    fma4(sum, q[row], x[i]);
    __stcs(reinterpret_cast<float4*>(keys + row * many_slots), x[i]);
  }
  store_sums(place.sums(memory, GsaWork::key_sums), place, sum);
  place.sync();
  send_scores(shared, place, place.sums(memory, GsaWork::key_sums), scores, operation.split, part,
              buffer);

  at.advance(1);
  take_slot(shared, at, place, x);
  const float4 v = *reinterpret_cast<const float4*>(token + 2 * many_part + place.column);
  float* values =
      gsa.value_state + int64_t(unit) * many_slots * gsa.dim + part * many_part + place.column;
#pragma unroll
  for (int i = 0; i < thread_quads; ++i) {
    const int m = place.row(i);
    const float keep = gate[m];
    const float add = gate[many_slots + m];
    x[i] = make_float4(fmaf(x[i].x, keep, add * v.x), fmaf(x[i].y, keep, add * v.y),
                       fmaf(x[i].z, keep, add * v.z), fmaf(x[i].w, keep, add * v.w));
    __stcs(reinterpret_cast<float4*>(values + int64_t(m) * gsa.dim), x[i]);
  }
  wait_in_cluster(shared_address(&shared.fixed->scores[place.team][buffer]), phase);
  const LaneProbabilities probabilities(gsa.scale, scores, operation.split);
  sum = make_float4(0, 0, 0, 0);
#pragma unroll
  for (int i = 0; i < thread_quads; ++i) {
    const int m = place.row(i);
    fma4(sum, __shfl_sync(~0U, probabilities.p[i * quad_groups / warp_size], m % warp_size), x[i]);
  }
  store_sums(place.sums(memory, GsaWork::value_sums), place, sum);
  place.sync();
  if (place.thread < many_part) {
    const int sequence = int(unsigned(unit) / unsigned(gsa.query_heads));
    const int query_head = unit - sequence * gsa.query_heads;
    const float o = add_sums(place.sums(memory, GsaWork::value_sums), place.thread);
    gsa.output[int64_t(sequence) * gsa.output_stride + query_head * gsa.dim + part * many_part +
               place.thread] = from_float<bfloat16>(swish(o));
  }
}

// The teams' part in a GSA step. Two buffers of scores are enough: a block that sends those of a
// unit has read those of the one before, and gets none of the next but one until it has sent its
// own.
template <typename WaitForInput>
__device__ void take_gsa(const ManyOperation& operation, const ManyShared& shared, RingPlace& ring,
                         ScorePhases& phases, WaitForInput&& wait_for_input) {
  constexpr int unit_slots = 2;
  const UnitPlace units(operation);
  const TeamPlace place;
  const int part = int(blockIdx.x % unsigned(operation.split));
  float* memory = reinterpret_cast<float*>(shared.work);
  wait_for_input();
  load_tokens(operation.gsa, units, part, memory);
  sync_taking();
  for (int i = place.team; i < units.count; i += teams) {
    const int buffer = i / teams % score_buffers;
    RingPlace at = ring;
    at.advance(i * unit_slots);
    take_unit(operation, units.unit(i), part, memory + GsaWork::tokens + i * GsaWork::token, memory,
              shared, at, place, buffer, phases.take(buffer));
  }
  ring.advance(units.count * unit_slots);
  sync_taking();
}

}  // namespace gsa::kernels::cuda::decode
