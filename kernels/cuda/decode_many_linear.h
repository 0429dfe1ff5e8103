// Products inside the kernel of a decode step of many sequences: how weights are copied and
// multiplied, and sums over the blocks finished.
//
// Weights are the left operand of wgmma m64n64k16, sequences the 64 columns of the right one. A
// group of 4 or 8 blocks of a cluster shares units of 64 rows, each block a part of the depth; so a
// block needs only that part of the input, which lies in its working memory, times the norm's
// weight. A team takes every fourth unit. When all weights are multiplied the
// input gives way to the sums: a block owns 16 or 8 of the sequences, leaves the sums of the others
// for their owners, and adds up those of its own from all blocks, in their order.
#pragma once

#include "kernels/cuda/decode_many_sums.h"

namespace gsa::kernels::cuda::decode {

// The copying thread's part: the block's part of the depth, two panels of all units at a time.
template <typename Filler>
__device__ void copy_product(const ManyStep& step, int number, Filler& filler) {
  const ManyOperation& operation = step.operations[number];
  const UnitPlace units(operation);
  const DepthPlace depth(operation);
  const CUtensorMap& map = step.maps[number];
  const bool gated = operation.linear.gated;
  for (int panel = 0; panel < depth.panels; panel += slot_panels) {
    const int boxes = min(slot_panels, depth.panels - panel);
    for (int i = 0; i < units.count; ++i) {
      const int unit = units.unit(i);
      const auto slot = filler.begin(boxes * panel_bytes);
      for (int box = 0; box < boxes; ++box) {
        copy_matrix_box(slot.target + box * panel_bytes, map,
                        (depth.first + panel + box) * panel_columns,
                        gated ? 0 : unit * many_unit_rows, gated ? unit * (many_unit_rows / 16) : 0,
                        slot.full, filler.policy());
      }
    }
  }
}

__device__ inline uint4 times_norm(const uint4& x, const uint4& norm, bool has_weight,
                                   float& squares) {
  const auto* values = reinterpret_cast<const bfloat16*>(&x);
  const auto* scales = reinterpret_cast<const bfloat16*>(&norm);
  float y[piece_columns];
#pragma unroll
  for (int j = 0; j < piece_columns; ++j) {
    y[j] = to_float(values[j]);
    squares = fmaf(y[j], y[j], squares);
    y[j] *= has_weight ? to_float(scales[j]) : 1.0F;
  }
  return make_uint4(pack_pair(y[0], y[1]), pack_pair(y[2], y[3]), pack_pair(y[4], y[5]),
                    pack_pair(y[6], y[7]));
}

// The block's part of the input, times the norm's weight, to working memory as panels of 64
// sequences, zeros where there are none; its sums of squares beside it. A warp takes whole rows,
// `pieces` of 8 columns a lane.
template <int pieces, typename WaitForInput>
__device__ void stage_input(const ManyStep& step, const LinearOperation& linear,
                            const DepthPlace& depth, const ManyShared& shared,
                            WaitForInput&& wait_for_input) {
  constexpr int warp_rows = many_rows / taking_warps;
  const int warp = int(threadIdx.x) / warp_size;
  const int lane = int(threadIdx.x) % warp_size;
  const int first = depth.first * panel_columns + lane * piece_columns;
  const bool has_weight = linear.norm_weight != nullptr;
  uint4 norm[pieces];
#pragma unroll
  for (int j = 0; j < pieces; ++j) {
    const int column = first + j * warp_size * piece_columns;
    norm[j] = has_weight && column < linear.columns
                  ? __ldg(reinterpret_cast<const uint4*>(linear.norm_weight + column))
                  : uint4{};
  }
  wait_for_input();
  uint4 x[warp_rows][pieces];
#pragma unroll
  for (int i = 0; i < warp_rows; ++i) {
    const int row = warp + i * taking_warps;
    const bfloat16* source = linear.input + int64_t(row) * linear.input_stride;
#pragma unroll
    for (int j = 0; j < pieces; ++j) {
      const int column = first + j * warp_size * piece_columns;
      const bool exists = row < step.rows && column < linear.columns &&
                          lane + j * warp_size < depth.panels * row_pieces;
      x[i][j] = exists ? __ldcg(reinterpret_cast<const uint4*>(source + column)) : uint4{};
    }
  }
#pragma unroll
  for (int i = 0; i < warp_rows; ++i) {
    const int row = warp + i * taking_warps;
    float squares = 0.0F;
#pragma unroll
    for (int j = 0; j < pieces; ++j) {
      const int piece = lane + j * warp_size;
      const uint4 value = linear.norm ? times_norm(x[i][j], norm[j], has_weight, squares) : x[i][j];
      if (piece < depth.panels * row_pieces) {
        *reinterpret_cast<uint4*>(shared.work + piece / row_pieces * panel_bytes +
                                  panel_offset(row, piece % row_pieces)) = value;
      }
    }
    if (linear.norm) {
      squares = warp_reduce(squares, Add());
      if (lane == 0) {
        shared.fixed->squares[row] = squares;
      }
    }
  }
}

using TeamSums = float[team_units][column_tiles][4];

// Sums of the team's units over the block's part of the depth.
__device__ inline void multiply_units(const DepthPlace& depth, int units, const ManyShared& shared,
                                      RingPlace& ring, int team, TeamSums& sums) {
  const uint32_t input = shared_address(shared.work);
  const bool leads = threadIdx.x % warp_size == 0;
  int multiplied = -1;  // the slot whose products are under way
  for (int panel = 0; panel < depth.panels; panel += slot_panels) {
    RingPlace at = ring;
    at.advance(team);
#pragma unroll
    for (int h = 0; h < team_units; ++h) {
      if (team + h * teams < units) {
        wait_for_slot(shared, at);
        const uint32_t weights = shared_address(shared.slot(at.slot));
        begin_products();
#pragma unroll
        for (int box = 0; box < slot_panels; ++box) {
          if (panel + box < depth.panels) {
            const uint64_t a = panel_descriptor(weights + box * panel_bytes);
            const uint64_t b = panel_descriptor(input + (panel + box) * panel_bytes);
#pragma unroll
            for (int k = 0; k < panel_steps; ++k) {
              const uint64_t along = uint64_t(k) * step_distance<PanelRows::columns>;
              warpgroup_product<PanelRows::columns, PanelRows::columns>(sums[h], a + along,
                                                                        b + along, true);
            }
          }
        }
        commit_products();
        wait_products<1>();
        if (leads && multiplied >= 0) {
          arrive(shared.empty(multiplied));
        }
        multiplied = at.slot;
      }
      at.advance(teams);
    }
    ring.advance(units);
  }
  wait_products<0>();
  if (leads && multiplied >= 0) {
    arrive(shared.empty(multiplied));
  }
#pragma unroll
  for (int h = 0; h < team_units; ++h) {
    hold(sums[h], column_tiles);
  }
}

// The teams' part in a product.
template <typename WaitForInput>
__device__ void take_product(const ManyStep& step, const ManyOperation& operation,
                             const ManyShared& shared, RingPlace& ring, GroupMeeting& meeting,
                             WaitForInput&& wait_for_input) {
  const LinearOperation& linear = operation.linear;
  const UnitPlace units(operation);
  const DepthPlace depth(operation);
  const int team = __shfl_sync(~0U, int(threadIdx.x) / warpgroup_threads, 0);
  if (units.count == 0) {
    wait_for_input();
    sync_taking();
    return;
  }
  if (depth.panels * row_pieces <= 2 * warp_size) {
    stage_input<2>(step, linear, depth, shared, wait_for_input);
  } else {
    stage_input<4>(step, linear, depth, shared, wait_for_input);
  }
  publish_shared();
  sync_taking();
  TeamSums sums;
#pragma unroll
  for (int h = 0; h < team_units; ++h) {
    clear(sums[h], column_tiles);
  }
  multiply_units(depth, units.count, shared, ring, team, sums);
  sync_taking();
#pragma unroll
  for (int h = 0; h < team_units; ++h) {
    const int unit = team + h * teams;
    if (unit < units.count) {
      leave_sums(reinterpret_cast<float*>(shared.work + unit * unit_sums_bytes), sums[h]);
    }
  }
  sync_taking();
  meeting.tell_sums(*shared.fixed, operation.split);
  meeting.wait_for_sums(*shared.fixed);
  if (operation.split == many_cluster) {
    finish_sums<many_cluster>(step, operation, units, depth.part, shared);
  } else {
    finish_sums<many_cluster / 2>(step, operation, units, depth.part, shared);
  }
  sync_taking();
  meeting.tell_taken(*shared.fixed, operation.split);
}

}  // namespace gsa::kernels::cuda::decode
