// Products of a decode step for 9 to 64 sequences: y = x W^T, bound by reading the weights once,
// or with RMSNorm in front y = (x * w) W^T / rms(x), where x * w is rounded to bfloat16.
//
// A *unit* is 32 rows of weights (with swiglu 16 gates and their 16 ups). Clusters of c blocks take
// units in turn, each block of a cluster a part of the depth K, so that what is asked for at one
// time lies together: a kilobyte of each row a block (K = 2048, c = 4), and beside it those of the
// others of its cluster; other clusters read the rows above and below.
//
//   one thread      copies a unit, the input and the other units into a ring of 4 to 6 slots, 32 or
//                   44 KB each, of which the input has the last two at first
//   a warpgroup     has the input in registers, 64 sequences by K / c; multiplies (wgmma m64n32k16,
//                   right: a slot) and hands its sums over to the blocks that own the sequences
//   1 or 2 warps    finish the block's 64 / c sequences of a unit: they add up the sums of all
//                   blocks, in the order of ranks, and store
//
// More than eight warps would leave a thread 168 registers; K = 5632 takes 176 for the input.
//
// The norm is what the warpgroup does to a panel of the input that has come: it adds up squares and
// multiplies by the norm's weights, while the next panel is on its way. The sums of squares go to
// the blocks that own the sequences, once, and 1 / rms multiplies the sums of products there.
//
// One unit is on its way before the kernel in front has ended; the input waits for that, and asks
// before the other units do, of which few are on their way at a time: it would wait behind them.
// Weights are the first to leave the L2 cache: what every step uses again (code, arguments, tensor
// maps, the norms' weights) stays in it. All barriers of the ring are the block's own. Blocks hear
// of each other at the start, and then by stores that count bytes at their target's barrier, and by
// arrivals that say that sums are read: there is no fence. Those arrivals are sent only where they
// are waited for, and what is sent to a block it waits for: none leaves while it may still be
// written to. Sums are added in one order: the same bits every run, whatever other sequences there
// are.
//
// A unit of 32 KB comes in about 1 us where all multiprocessors read at once, 1750 cycles. Tensor
// cores take 512 for it (16 a product), shared memory 256 for the weights and 128 for 8 KB of sums
// in and out; the L2 cache gives the input 32 times, 8 MB, 1.5 us.
#pragma once

#include "kernels/cuda/async_copy.h"
#include "kernels/cuda/dependent_launch.h"
#include "kernels/cuda/ring.h"
#include "kernels/cuda/wgmma.h"

namespace gsa::kernels::cuda::decode_many {

inline constexpr int most_rows = 64;                         // sequences
inline constexpr int unit_rows = 32;                         // of weights
inline constexpr int tile_columns = 8;                       // of an accumulator tile
inline constexpr int unit_tiles = unit_rows / tile_columns;  // and groups of rows in a slot
inline constexpr int warps = warpgroup_threads / warp_size;  // that multiply
inline constexpr int most_panels = 11;                       // of the depth in a block
inline constexpr int most_slots = 8;
inline constexpr int input_slots = most_rows / unit_rows;      // that the input takes
inline constexpr int buffers = 3;                              // of a unit's sums
inline constexpr int fragment_bytes = 4 * int(sizeof(float));  // what a lane hands over at once
// What a block receives of a unit, and once of squares: its 64 / c sequences from each of c blocks.
inline constexpr int sums_bytes = most_rows * unit_rows * int(sizeof(float));
inline constexpr int squares_bytes = most_rows * int(sizeof(float));

// How the work is cut.
struct Partition {
  int cluster_bits;  // log2 of a cluster's blocks
  int clusters;      // that the units go to in turn
  int units;
  int panels;     // of the depth
  int slots;      // of the ring
  int ahead;      // units that are copied before the input, up to slots - input_slots
  int under_way;  // units on their way at a time

  __host__ __device__ int cluster() const { return 1 << cluster_bits; }
  // The depth's panels before those of a block, and the most that a block has.
  __host__ __device__ int first_panel(int rank) const { return panels * rank >> cluster_bits; }
  __host__ __device__ int block_panels() const { return (panels + cluster() - 1) >> cluster_bits; }
  __host__ __device__ int group_bytes() const {
    return block_panels() * tile_columns * panel_row_bytes;
  }
  __host__ __device__ int slot_bytes() const { return unit_tiles * group_bytes(); }
};

// How a cluster shares the work of finishing: a block owns sequences, all of a warp's strip or half
// of it. A lane's sums of them are `parts` fragments, with swiglu gates and then ups. A warp that
// finishes has two: `f` and `f + finishers`.
template <int cluster>
struct Shares {
  static constexpr int rows = most_rows / cluster;         // sequences of a block
  static constexpr int strip_owners = strip_rows / rows;   // blocks that own a strip
  static constexpr int parts = unit_tiles / strip_owners;  // fragments of a lane
  static constexpr int lane_parts = 2;
  static constexpr int finishers = parts / lane_parts;  // warps
  static constexpr int threads = (warps + finishers + 1) * warp_size;
  static_assert(strip_owners > 0 && parts % lane_parts == 0);
};

// Where things lie in a block's memory, in bytes from its begin, where the ring is.
struct SharedLayout {
  int sums;         // handed over: [buffers][cluster][parts][lanes] fragments
  int squares;      // handed over: [cluster][rows of the block] sums of squares
  int norm_weight;  // of the block's panels
  int barriers;     // of 8 bytes: BlockPlace
  int bytes;

  __host__ __device__ explicit SharedLayout(const Partition& partition) {
    sums = partition.slots * partition.slot_bytes();
    squares = sums + buffers * sums_bytes;
    norm_weight = squares + squares_bytes;
    barriers = norm_weight + most_panels * panel_row_bytes;
    bytes = barriers + (most_panels + 1 + 2 * most_slots + buffers * (1 + warps) + 2) * 8;
  }
};

struct ManyProduct {
  CUtensorMap input;       // [B, K]: panels of 64 rows
  CUtensorMap weights[2];  // [N, K] of outputs, or of gates and of ups: groups of 8 rows by all of
                           // a block's panels
  bool norm;               // RMSNorm in front
  const bfloat16* norm_weight;  // [K], or absent: ones
  float epsilon;
  Rows<const bfloat16> residual;  // or absent
  Rows<bfloat16> output;          // or absent:
  Rows<float> float_output;       // in float32
  int rows;                       // B
  int outputs;                    // N, even
  Partition partition;
};

// What a block has to do, and with what.
struct BlockPlace {
  const ManyProduct& product;
  int rank;  // in its cluster
  int cluster;
  int begin;  // its panels of the depth
  int panels;
  uint32_t ring;
  uint32_t sums;
  uint32_t squares;
  uint32_t norm_weight;
  uint32_t barriers;

  __device__ explicit BlockPlace(const ManyProduct& whole)
      : product(whole),
        rank(cluster_rank()),
        cluster(int(blockIdx.x) >> whole.partition.cluster_bits),
        begin(whole.partition.first_panel(rank)),
        panels(whole.partition.first_panel(rank + 1) - begin),
        ring(shared_address(block_memory())) {
    const SharedLayout layout(product.partition);
    sums = ring + uint32_t(layout.sums);
    squares = ring + uint32_t(layout.squares);
    norm_weight = ring + uint32_t(layout.norm_weight);
    barriers = ring + uint32_t(layout.barriers);
  }

  __device__ uint32_t slot(int i) const {
    return ring + uint32_t(i * product.partition.slot_bytes());
  }
  __device__ uint32_t input_panel(int i) const {
    return slot(product.partition.slots - input_slots) + uint32_t(i * panel_bytes);
  }
  // Where a lane's fragment of a part of the sums from a block lies.
  template <int parts>
  __device__ uint32_t fragment(int buffer, int sender, int part, int lane) const {
    return sums + uint32_t(buffer * sums_bytes +
                           ((sender * parts + part) * warp_size + lane) * fragment_bytes);
  }
  // Where a block's sum of the squares of one of the `rows` sequences lies.
  template <int rows>
  __device__ uint32_t square(int sender, int row) const {
    return squares + uint32_t((sender * rows + row) * int(sizeof(float)));
  }

  // Barriers: a panel of the input is there, and all of them are in registers; a slot is full, or
  // empty; a unit's sums are there, and the owners of a warp's strip have read theirs; the norm's
  // weights are there, and the sums of squares.
  __device__ uint32_t arrived(int panel) const { return barrier(panel); }
  __device__ uint32_t loaded() const { return barrier(most_panels); }
  __device__ uint32_t full(int slot) const { return barrier(most_panels + 1 + slot); }
  __device__ uint32_t empty(int slot) const { return full(most_slots + slot); }
  __device__ uint32_t received(int buffer) const { return full(2 * most_slots + buffer); }
  __device__ uint32_t drained(int buffer, int warp) const {
    return received(buffers + buffer * warps + warp);
  }
  __device__ uint32_t weighted() const { return drained(buffers, 0); }
  __device__ uint32_t squared() const { return drained(buffers, 1); }

  __device__ void leave(int slot) const { arrive(empty(slot)); }
  // Until a slot may be filled for another round.
  __device__ void wait_empty(int slot, int round) const {
    wait_barrier(empty(slot), (round & 1) ^ 1);
  }

  // By one thread. `owners`: of a strip; each has `finishers` warps.
  __device__ void init_barriers(int owners, int finishers) const {
    for (int panel = 0; panel < most_panels; ++panel) {
      init_barrier(arrived(panel), 1);
    }
    init_barrier(loaded(), warpgroup_threads);
    for (int slot = 0; slot < most_slots; ++slot) {
      init_barrier(full(slot), 1);
      init_barrier(empty(slot), warpgroup_threads);
    }
    for (int buffer = 0; buffer < buffers; ++buffer) {
      init_barrier(received(buffer), 1);
      for (int warp = 0; warp < warps; ++warp) {
        const int rows_left = product.rows - warp * strip_rows;
        const int with_rows = (rows_left * owners + strip_rows - 1) / strip_rows;
        init_barrier(drained(buffer, warp), max(1, min(with_rows, owners)) * finishers);
      }
    }
    init_barrier(weighted(), 1);
    init_barrier(squared(), 1);
    publish_barriers();
  }

 private:
  __device__ uint32_t barrier(int index) const { return barriers + uint32_t(index * 8); }
};

// Begins copying the norm's weights of the block's panels, if there are any.
__device__ inline void copy_norm_weight(const BlockPlace& place) {
  if (place.product.norm_weight != nullptr) {
    const int bytes = place.panels * panel_row_bytes;
    arrive_expecting(place.weighted(), bytes);
    copy_bytes(place.norm_weight, place.product.norm_weight + place.begin * panel_columns, bytes,
               place.weighted());
  }
}

__device__ inline void copy_input(const BlockPlace& place, bool leads) {
  wait_for_previous();
  for (int panel = 0; leads && panel < place.panels; ++panel) {
    arrive_expecting(place.arrived(panel), panel_bytes);
    copy_panels(place.input_panel(panel), place.product.input,
                (place.begin + panel) * panel_columns, 0, place.arrived(panel));
  }
}

// Begins copying the block's part of a unit, eight rows after the other.
template <int groups>
__device__ inline void copy_unit(const BlockPlace& place, int unit, int slot, uint64_t policy) {
  const Partition& partition = place.product.partition;
  arrive_expecting(place.full(slot), partition.slot_bytes());
  constexpr int each = unit_tiles / groups;
  for (int i = 0; i < unit_tiles; ++i) {
    copy_row_group(place.slot(slot) + uint32_t(i * partition.group_bytes()),
                   place.product.weights[i / each], (unit * each + i % each) * tile_columns,
                   place.begin, place.full(slot), policy);
  }
}

// The warp that copies, of which one lane does: the norm's weights, `ahead` units, the input, units
// until the slots for them are full, and when the input has left its slots the other units. It
// comes to the cluster's barrier before it first waits for others: the hardware would not mind, but
// racecheck holds a block's threads together there.
template <int groups>
__device__ inline void copy(const BlockPlace& place, bool leads) {
  const Partition& partition = place.product.partition;
  const int before_barrier = partition.slots - input_slots;
  const uint64_t policy = read_once();
  if (leads) {
    copy_norm_weight(place);
  }
  Filling slot(partition.slots, partition.under_way);
  int copied = 0;
  for (int unit = place.cluster; unit < partition.units; unit += partition.clusters) {
    if (copied == partition.ahead) {
      copy_input(place, leads);
    }
    if (copied == before_barrier) {
      cluster_wait();
      wait_barrier(place.loaded(), 0);
    }
    const int next = slot.begin(place);
    if (leads) {
      copy_unit<groups>(place, unit, next, policy);
    }
    ++copied;
  }
  if (copied <= partition.ahead) {
    copy_input(place, leads);
  }
  if (copied <= before_barrier) {
    cluster_wait();
  }
}

// Sums of the squares of a strip's rows: the diagonal of its product with itself, by tensor cores.
// Of two accumulator tiles the first has the products with the low eight rows, the other those with
// the high ones; even and odd steps add to sums of their own, so that they need not wait.
struct StripSquares {
  float tiles[2][2][4] = {};

  __device__ __forceinline__ void add(const StripOperand& a) {
#pragma unroll
    for (int step = 0; step < panel_steps; ++step) {
      multiply_tile(tiles[step % 2][0], a[step], a[step][0], a[step][2]);
      multiply_tile(tiles[step % 2][1], a[step], a[step][1], a[step][3]);
    }
  }
  // Lane 4 r + r / 2 has those of rows r and r + 8.
  __device__ static bool are_in(int lane) {
    return lane % 4 == lane / 8;
  }
  __device__ float of(int half, int lane) const {
    const float* even = tiles[0][half] + 2 * half;
    const float* odd = tiles[1][half] + 2 * half;
    return lane / 4 % 2 == 0 ? even[0] + odd[0] : even[1] + odd[1];
  }
};

// A panel of a strip: adds its squares to the others, and multiplies it by the weights.
__device__ __forceinline__ void apply_norm(StripOperand& a, StripSquares& squares,
                                           const BlockPlace& place, int panel, int lane) {
  squares.add(a);
  if (place.product.norm_weight != nullptr) {
    const uint32_t weights =
        place.norm_weight + uint32_t(panel * panel_row_bytes + lane % 4 * int(sizeof(uint32_t)));
#pragma unroll
    for (int i = 0; i < panel_tiles; ++i) {
      const auto weight = uint32_t(load_word(weights + uint32_t(i * piece_bytes)));
      uint32_t* pairs = a[i / 2] + i % 2 * 2;
      pairs[0] = multiply_pairs(pairs[0], weight);
      pairs[1] = multiply_pairs(pairs[1], weight);
    }
  }
}

// The input of a warp's strip, in registers; zeros where the block has fewer panels. With a norm
// its squares are added up.
template <int panels>
__device__ __forceinline__ void load_input(StripOperand (&a)[panels], StripSquares& squares,
                                           const BlockPlace& place, int warp, int lane) {
  if (place.product.norm_weight != nullptr) {
    wait_barrier(place.weighted(), 0);
  }
#pragma unroll
  for (int panel = 0; panel < panels; ++panel) {
    if (panel < place.panels) {
      wait_barrier(place.arrived(panel), 0);
#pragma unroll
      for (int step = 0; step < panel_steps; ++step) {
        load_step(a[panel][step], place.input_panel(panel), warp * strip_rows, step, lane);
      }
      if (place.product.norm) {
        apply_norm(a[panel], squares, place, panel, lane);
      }
    } else {
#pragma unroll
      for (int step = 0; step < panel_steps; ++step) {
        a[panel][step][0] = a[panel][step][1] = a[panel][step][2] = a[panel][step][3] = 0;
      }
    }
  }
  arrive(place.loaded());
}

// c = the block's part of a unit's product. Zeros are multiplied by the first panel.
template <int panels>
__device__ __forceinline__ void multiply_unit(float (&c)[unit_tiles][4],
                                              const StripOperand (&a)[panels],
                                              const BlockPlace& place, int slot) {
  constexpr uint64_t panel_distance = tile_columns * panel_row_bytes / piece_bytes;
  const Partition& partition = place.product.partition;
  const int there = partition.block_panels();
  const auto memory = uint32_t(same_in_warp(int(place.slot(slot))));
  const uint64_t first = panel_descriptor(memory, panel_bytes, uint32_t(partition.group_bytes()));
  begin_products();
#pragma unroll
  for (int panel = 0; panel < panels; ++panel) {
    const uint64_t b = first + (panel < there ? uint64_t(panel) * panel_distance : 0);
#pragma unroll
    for (int step = 0; step < panel_steps; ++step) {
      warpgroup_product<PanelRows::columns>(c, a[panel][step],
                                            b + uint64_t(step) * step_distance<PanelRows::columns>,
                                            panel + step > 0);
    }
  }
  commit_products();
  wait_products();
  hold(c, unit_tiles);
}

// Hands the sums of squares of a warp's strip over to the blocks that own its sequences.
template <int cluster>
__device__ __forceinline__ void send_squares(const StripSquares& squares, const BlockPlace& place,
                                             int warp, int lane) {
  using Share = Shares<cluster>;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = warp * strip_rows + half * 8 + lane / 4;
    const int owner = row / Share::rows;
    if (StripSquares::are_in(lane) && owner * Share::rows < place.product.rows) {
      hand_over_word(
          address_in_block(place.square<Share::rows>(place.rank, row % Share::rows), owner),
          __float_as_int(squares.of(half, lane)), address_in_block(place.squared(), owner));
    }
  }
}

// Hands a warp's sums over to the blocks that own its sequences.
template <int cluster>
__device__ __forceinline__ void send(const float (&c)[unit_tiles][4], const BlockPlace& place,
                                     int buffer, int warp, int lane) {
  using Share = Shares<cluster>;
#pragma unroll
  for (int i = 0; i < Share::strip_owners; ++i) {
    const int owner = warp * Share::strip_owners + i;
    if (owner * Share::rows < place.product.rows) {
      const uint32_t barrier = address_in_block(place.received(buffer), owner);
      const uint32_t target =
          address_in_block(place.fragment<Share::parts>(buffer, place.rank, 0, lane), owner);
#pragma unroll
      for (int part = 0; part < Share::parts; ++part) {
        const uint32_t there = target + uint32_t(part * warp_size * fragment_bytes);
        if constexpr (Share::strip_owners == 1) {
          hand_over(there, c[part], barrier);
        } else {
          const float* low = c[2 * part] + 2 * i;
          const float* high = c[2 * part + 1] + 2 * i;
          hand_over(there, {low[0], low[1], high[0], high[1]}, barrier);
        }
      }
    }
  }
}

// The warpgroup that multiplies.
template <int cluster, int panels>
__device__ __forceinline__ void multiply(const BlockPlace& place) {
  const Partition& partition = place.product.partition;
  const int lane = int(threadIdx.x) % warp_size;
  const int warp = int(threadIdx.x) / warp_size;
  const bool has_rows = warp * strip_rows < place.product.rows;
  StripOperand a[panels];
  StripSquares squares;
  load_input(a, squares, place, warp, lane);
  bool has_squares = place.product.norm;  // to send, behind the first unit
  Emptying slots(partition.slots);
  Turn buffer(buffers);
  for (int unit = place.cluster; unit < partition.units; unit += partition.clusters) {
    float c[unit_tiles][4];
    multiply_unit(c, a, place, slots.wait(place));
    slots.leave(place);
    if (has_squares) {
      send_squares<cluster>(squares, place, warp, lane);
      has_squares = false;
    }
    if (has_rows) {
      wait_barrier(place.drained(buffer.place(), warp), buffer.phase() ^ 1);
      send<cluster>(c, place, buffer.place(), warp, lane);
    }
    buffer.advance();
  }
  if (has_squares) {
    send_squares<cluster>(squares, place, warp, lane);
  }
}

// A lane of a warp that finishes: two parts of a unit's sums of four elements, which are two pairs
// of columns. With swiglu the first part has gates, the second one their ups.
template <int groups, int cluster>
class Finisher {
 public:
  using Share = Shares<cluster>;
  static constexpr int pairs = 2;
  static constexpr int output_parts = Share::lane_parts / groups;
  using Sums = float[Share::lane_parts][4];
  using Scales = float[pairs];
  using Residual = uint32_t[output_parts][pairs];

  __device__ explicit Finisher(const BlockPlace& place)
      : place_(place),
        product_(place.product),
        warp_(int(threadIdx.x) / warp_size - warps),
        lane_(int(threadIdx.x) % warp_size) {}

  __device__ void run() const {
    const Partition& partition = product_.partition;
    Scales scales;
    load_scales(scales);
    Turn buffer(buffers);
    for (int unit = place_.cluster; unit < partition.units; unit += partition.clusters) {
      Residual residual;
      load_residual(residual, unit);
      if (warp_ == 0 && lane_ == 0) {
        arrive_expecting(place_.received(buffer.place()), sums_bytes);
      }
      wait_barrier(place_.received(buffer.place()), buffer.phase());
      Sums sums;
      add_up(sums, scales, buffer.place());
      // Nobody waits for it after the last ones, and may be gone.
      if (unit + buffers * partition.clusters < partition.units) {
        tell_drained(buffer.place());
      }
      finish(sums, residual, unit);
      buffer.advance();
    }
  }

 private:
  __device__ int part(int i) const { return warp_ + i * Share::finishers; }
  __device__ int row(int pair) const {
    return place_.rank * Share::rows + lane_ / 4 + (Share::strip_owners == 1 ? pair * 8 : 0);
  }
  __device__ int column(int unit, int i, int pair) const {
    const int tile = Share::strip_owners == 1 ? part(i) : 2 * part(i) + pair;
    return (unit * unit_tiles / groups + tile) * tile_columns + lane_ % 4 * 2;
  }
  __device__ bool exists(int unit, int i, int pair) const {
    return row(pair) < product_.rows && column(unit, i, pair) < product_.outputs;
  }

  // What the norm multiplies the sequences of the pairs by. The squares are waited for even where
  // the cluster has no units: they are sent.
  __device__ void load_scales(Scales& scales) const {
    scales[0] = scales[1] = 1.0F;
    if (product_.norm) {
      if (warp_ == 0 && lane_ == 0) {
        arrive_expecting(place_.squared(), squares_bytes);
      }
      wait_barrier(place_.squared(), 0);
#pragma unroll
      for (int pair = 0; pair < pairs; ++pair) {
        scales[pair] = inverse_rms(row(pair) - place_.rank * Share::rows);
      }
    }
  }
  // Of a sequence of the block's; blocks' sums in the order of ranks.
  __device__ float inverse_rms(int row) const {
    float squares = 0.0F;
#pragma unroll
    for (int sender = 0; sender < cluster; ++sender) {
      squares += __int_as_float(load_word(place_.square<Share::rows>(sender, row)));
    }
    const int columns = product_.partition.panels * panel_columns;
    return 1.0F / sqrtf(squares / float(columns) + product_.epsilon);
  }

  __device__ void load_residual(Residual& residual, int unit) const {
#pragma unroll
    for (int i = 0; i < output_parts; ++i) {
#pragma unroll
      for (int pair = 0; pair < pairs; ++pair) {
        residual[i][pair] = product_.residual && exists(unit, i, pair)
                                ? *reinterpret_cast<const uint32_t*>(
                                      product_.residual.at(row(pair), column(unit, i, pair)))
                                : 0;
      }
    }
  }

  // In the order of ranks, and multiplied by the scales.
  __device__ void add_up(Sums& sums, const Scales& scales, int buffer) const {
#pragma unroll
    for (int i = 0; i < Share::lane_parts; ++i) {
      load_handed(place_.fragment<Share::parts>(buffer, 0, part(i), lane_), sums[i]);
#pragma unroll
      for (int sender = 1; sender < cluster; ++sender) {
        float x[4];
        load_handed(place_.fragment<Share::parts>(buffer, sender, part(i), lane_), x);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          sums[i][j] += x[j];
        }
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        sums[i][j] *= scales[j / 2];
      }
    }
  }

  // Tells all blocks that their sums are read.
  __device__ void tell_drained(int buffer) const {
    __syncwarp();
    if (lane_ < cluster) {
      arrive_in_block(place_.drained(buffer, place_.rank / Share::strip_owners), lane_);
    }
  }

  // What follows the sums, and where they go.
  __device__ void finish(Sums& sums, const Residual& residual, int unit) const {
#pragma unroll
    for (int i = 0; i < output_parts; ++i) {
#pragma unroll
      for (int pair = 0; pair < pairs; ++pair) {
        float* y = sums[i] + 2 * pair;
        if constexpr (groups == 2) {
          const float* up = sums[1] + 2 * pair;
          y[0] = y[0] * sigmoid(y[0]) * up[0];
          y[1] = y[1] * sigmoid(y[1]) * up[1];
        }
        const float2 more = unpack_pair(residual[i][pair]);
        if (exists(unit, i, pair)) {
          store_pair(y[0] + more.x, y[1] + more.y, row(pair), column(unit, i, pair));
        }
      }
    }
  }
  __device__ void store_pair(float low, float high, int row, int column) const {
    if (product_.output) {
      *reinterpret_cast<uint32_t*>(product_.output.at(row, column)) = pack_pair(low, high);
    } else {
      *reinterpret_cast<float2*>(product_.float_output.at(row, column)) = {low, high};
    }
  }

  const BlockPlace& place_;
  const ManyProduct& product_;
  int warp_;
  int lane_;
};

// `panels`: at least those of a block.
template <int groups, int cluster, int panels>
__global__ void __launch_bounds__(Shares<cluster>::threads, 1)
    many_kernel(const __grid_constant__ ManyProduct product) {
  using Share = Shares<cluster>;
  static_assert(panels <= most_panels);
  let_next_start();
  const BlockPlace place(product);
  const int warp = int(threadIdx.x) / warp_size;
  const bool copies = warp == warps + Share::finishers;
  const bool leads = threadIdx.x == Share::threads - warp_size;
  if (leads) {
    prefetch_map(product.input);
    place.init_barriers(Share::strip_owners, Share::finishers);
  }
  sync_threads(0, Share::threads);
  cluster_arrive_relaxed();
  if (copies) {
    copy<groups>(place, leads);
    return;
  }
  // All blocks of the cluster have their barriers.
  cluster_wait();
  if (warp < warps) {
    multiply<cluster, panels>(place);
  } else if (place.rank * Share::rows < product.rows) {
    wait_for_previous();
    Finisher<groups, cluster>(place).run();
  }
}

}  // namespace gsa::kernels::cuda::decode_many
