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

// The parts of the units' tokens, activated.
__device__ inline void load_tokens(const GsaOperation& gsa, const UnitPlace& units, int part,
                                   float* memory) {
  constexpr int part_pieces = many_part / vector_width;
  constexpr int pieces = 3 * part_pieces + many_slots / vector_width;
  const int k_begin = gsa.query_heads * gsa.dim;
  const int v_begin = k_begin + gsa.heads * gsa.dim;
  const int f_begin = v_begin + gsa.heads * gsa.dim;
  const unsigned shared_by = unsigned(gsa.query_heads) / unsigned(gsa.heads);
  for (int at = int(threadIdx.x); at < units.count * pieces; at += taking_threads) {
    const int i = at / pieces;
    const int kind = at % pieces / part_pieces;
    const int element = at % part_pieces * vector_width;
    const int unit = units.unit(i);
    const int sequence = int(unsigned(unit) / unsigned(gsa.query_heads));
    const int query_head = unit - sequence * gsa.query_heads;
    const int head = int(unsigned(query_head) / shared_by);
    int column = element;
    if (kind == 0) {
      column += query_head * gsa.dim + part * many_part;
    } else if (kind < 3) {
      column += (kind == 1 ? k_begin : v_begin) + head * gsa.dim + part * many_part;
    } else {
      column += f_begin + head * many_slots;
    }
    const uint4 loaded = __ldcg(reinterpret_cast<const uint4*>(
        gsa.projected + int64_t(sequence) * gsa.projected_stride + column));
    const auto* x = reinterpret_cast<const bfloat16*>(&loaded);
    float* token = memory + GsaWork::tokens + i * GsaWork::token + kind * many_part + element;
#pragma unroll
    for (int j = 0; j < vector_width; ++j) {
      const float value = to_float(x[j]);
      if (kind < 3) {
        token[j] = swish(value);
      } else {
        const float log_alpha =
            gsa.gate_factor * (fminf(value, 0.0F) - log1pf(expf(-fabsf(value))));
        token[j] = expf(log_alpha);
        token[many_slots + j] = -expm1f(log_alpha);
      }
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

// A lane's two probabilities, of slots lane and lane + 32: softmax(scale * sum of the group's u).
struct LaneProbabilities {
  float p[many_slots / warp_size];

  __device__ LaneProbabilities(float scale, const float* scores, int split, int first_rank) {
    constexpr int count = many_slots / warp_size;
    const int lane = int(threadIdx.x) % warp_size;
    float parts[many_cluster][count];
#pragma unroll
    for (int of = 0; of < many_cluster; ++of) {
      const uint32_t from = shared_address_in(scores + lane, first_rank + min(of, split - 1));
#pragma unroll
      for (int i = 0; i < count; ++i) {
        parts[of][i] = load_shared_in(from + uint32_t(i * warp_size * sizeof(float)));
      }
    }
    float largest = -INFINITY;
#pragma unroll
    for (int i = 0; i < count; ++i) {
      p[i] = 0.0F;
#pragma unroll
      for (int of = 0; of < many_cluster; ++of) {
        p[i] += of < split ? parts[of][i] : 0.0F;
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

// A unit's part, by a team.
__device__ inline void take_unit(const ManyOperation& operation, int unit, int part,
                                 const float* token, float* memory, const ManyShared& shared,
                                 RingPlace at, const TeamPlace& place, int buffer, int phase) {
  const GsaOperation& gsa = operation.gsa;
  const float* q = token;
  const float* k = token + many_part;
  const float* gate = token + 3 * many_part;  // alpha, then 1 - alpha
  float* scores = memory + GsaWork::scores + (place.team * 2 + buffer) * many_slots;
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
  if (place.thread < many_slots) {
    scores[place.thread] = add_sums(place.sums(memory, GsaWork::key_sums), place.thread);
  }
  place.sync();
  uint64_t& told = shared.fixed->scores[place.team];
  tell_group(told, operation.split, place.thread);

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
  wait_in_cluster(shared_address(&told), phase);
  const LaneProbabilities probabilities(gsa.scale, scores, operation.split, cluster_rank() - part);
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

// The teams' part in a GSA step; `phase` is that of the team's barrier. A team's units take two
// buffers of scores in turn: a block that tells of a unit's scores has read those of the one
// before.
template <typename WaitForInput>
__device__ void take_gsa(const ManyOperation& operation, const ManyShared& shared, RingPlace& ring,
                         GroupMeeting& meeting, int& phase, WaitForInput&& wait_for_input) {
  constexpr int unit_slots = 2;
  const UnitPlace units(operation);
  const TeamPlace place;
  const int part = int(blockIdx.x % unsigned(operation.split));
  float* memory = reinterpret_cast<float*>(shared.work);
  wait_for_input();
  load_tokens(operation.gsa, units, part, memory);
  sync_taking();
  for (int i = place.team; i < units.count; i += teams) {
    RingPlace at = ring;
    at.advance(i * unit_slots);
    take_unit(operation, units.unit(i), part, memory + GsaWork::tokens + i * GsaWork::token, memory,
              shared, at, place, i / teams % 2, phase);
    phase ^= 1;
  }
  ring.advance(units.count * unit_slots);
  sync_taking();
  if (units.count > 0) {
    meeting.tell_taken(*shared.fixed, operation.split);
  }
}

}  // namespace gsa::kernels::cuda::decode
