// Products of a decode step for 9 to 64 sequences: y = x W^T, bound by reading the weights once.
//
// A cluster of c blocks has a share of the outputs, each of its blocks a part of the depth K:
//
//   wgmma            left: 64 sequences; right: a share's rows of weights, up to 256 (with swiglu
//                    gates, and then their ups: a lane has both of an output)
//   input            the block's part, 128 K / c bytes, is copied once and stays
//   weights' ring    slots of a share's rows by 64 of the depth, which one thread copies ahead
//   sums             in the registers of one warpgroup; they are added up over the cluster: a block
//                    finishes every c-th accumulator tile, of which the others hand it their sums
//
// The ring begins to fill before the kernel in front has ended; only the input waits for that. All
// barriers of the ring are the block's own. Blocks hear of each other at the start, and then by
// stores that count bytes at their target's barrier: there is no fence, and no block leaves before
// it has received all that is sent to it. Sums are added in one order: the same bits every run,
// whatever other sequences there are.
//
// What a multiprocessor takes in once the input is there, at about 100 KB/us, with K = 2048 and
// c = 4: 64 KB of input, and of sums 3/4 of 256 bytes a row of the share, 12 KB (o) to 48 KB (head,
// but while the next share's weights come). With all of the depth in one block it would be 256 KB
// of input. The L2 cache gives the input 32 times, 8 MB, 1.5 us at 5.5 TB/s; with c = 2 it would be
// 16 MB and 128 KB a multiprocessor, with c = 8 twice the sums. K = 5632 and c = 8: 88 KB of input
// and 28 KB of sums, 11.5 MB in all. Tensor cores need less than the weights: 0.5 us (o) to 9 us
// (head).
#pragma once

#include "kernels/cuda/async_copy.h"
#include "kernels/cuda/dependent_launch.h"
#include "kernels/cuda/wgmma.h"

namespace gsa::kernels::cuda::decode_many {

inline constexpr int most_rows = 64;
inline constexpr int warps = warpgroup_threads / warp_size;    // that multiply
inline constexpr int threads = warpgroup_threads + warp_size;  // the last warp's first one copies
inline constexpr int tile_columns = 8;                         // of an accumulator tile
inline constexpr int most_panels = 16;                         // of the input in a block
inline constexpr int most_slots = 16;
inline constexpr int fragment_bytes = 4 * int(sizeof(float));  // what a lane has of a tile

// How the work is cut.
struct Partition {
  int tiles;         // accumulator tiles of a share
  int groups;        // 1; with swiglu 2: gates and ups
  int cluster_bits;  // log2 of a cluster's blocks
  int clusters;      // that the shares go to in turn
  int shares;
  int panels;  // of the depth
  int slots;   // of the ring

  __host__ __device__ int cluster() const { return 1 << cluster_bits; }
  // Tiles of outputs in a share, and of those the most that a block finishes.
  __host__ __device__ int output_tiles() const { return tiles / groups; }
  __host__ __device__ int owned() const { return (output_tiles() + cluster() - 1) >> cluster_bits; }
  __host__ __device__ int share_outputs() const { return output_tiles() * tile_columns; }
  // The depth's panels before those of a block.
  __host__ __device__ int first_panel(int rank) const { return panels * rank >> cluster_bits; }
  __host__ __device__ int block_panels() const { return (panels + cluster() - 1) >> cluster_bits; }
  __host__ __device__ int slot_bytes() const { return tiles * tile_columns * panel_row_bytes; }
};

// Where things lie in a block's memory, in bytes from its begin.
struct SharedLayout {
  int ring;      // behind the input's panels
  int sums;      // handed over: [cluster - 1][groups][owned][warps][lanes] fragments
  int barriers;  // of 8 bytes: BlockPlace
  int bytes;

  __host__ __device__ explicit SharedLayout(const Partition& partition) {
    ring = partition.block_panels() * panel_bytes;
    sums = ring + partition.slots * partition.slot_bytes();
    barriers = sums + (partition.cluster() - 1) * partition.groups * partition.owned() *
                          warpgroup_threads * fragment_bytes;
    bytes = barriers + (most_panels + 2 * most_slots + 2 * warps) * 8;
  }
};

struct ManyProduct {
  CUtensorMap input;       // [B, K]: boxes of 64 rows
  CUtensorMap weights[2];  // [N, K] of outputs, or of gates and of ups: boxes of a share's rows
  Rows<const bfloat16> residual;  // or absent
  Rows<bfloat16> output;          // or absent:
  Rows<float> float_output;       // in float32
  int rows;                       // B
  int outputs;                    // N, even
  Partition partition;
};

// What a block has to do, and with what.
struct BlockPlace {
  int rank;  // in its cluster
  int cluster;
  int begin;  // its panels of the depth
  int end;
  uint32_t input;
  uint32_t ring;
  uint32_t sums;
  uint32_t barriers;

  __device__ explicit BlockPlace(const Partition& partition)
      : rank(cluster_rank()),
        cluster(int(blockIdx.x) >> partition.cluster_bits),
        begin(partition.first_panel(rank)),
        end(partition.first_panel(rank + 1)),
        input(shared_address(block_memory())) {
    const SharedLayout layout(partition);
    ring = input + uint32_t(layout.ring);
    sums = input + uint32_t(layout.sums);
    barriers = input + uint32_t(layout.barriers);
  }

  // Barriers: a panel of the input is there; a slot is full, or empty; a warp has received sums,
  // and the others may send it the next ones.
  __device__ uint32_t arrived(int panel) const { return barrier(panel); }
  __device__ uint32_t full(int slot) const { return barrier(most_panels + slot); }
  __device__ uint32_t empty(int slot) const { return full(most_slots + slot); }
  __device__ uint32_t received(int warp) const { return full(2 * most_slots + warp); }
  __device__ uint32_t drained(int warp) const { return received(warps + warp); }

  // By one thread.
  __device__ void init_barriers(const Partition& partition) const {
    for (int panel = 0; panel < most_panels; ++panel) {
      init_barrier(arrived(panel), 1);
    }
    for (int slot = 0; slot < most_slots; ++slot) {
      init_barrier(full(slot), 1);
      init_barrier(empty(slot), warps);
    }
    for (int warp = 0; warp < warps; ++warp) {
      init_barrier(received(warp), 1);
      init_barrier(drained(warp), partition.cluster() - 1);
    }
    publish_barriers();
  }

 private:
  __device__ uint32_t barrier(int index) const { return barriers + uint32_t(index * 8); }
};

// The slots of the weights' ring, and which comes next.
class Ring {
 public:
  __device__ Ring(const BlockPlace& place, const Partition& partition)
      : place_(place), slots_(partition.slots), slot_bytes_(partition.slot_bytes()) {}

  // The thread that copies: until the next slot may be filled; `full` is told what will come.
  __device__ void begin_slot() const {
    wait_barrier(place_.empty(slot_), phase_ ^ 1);
    arrive_expecting(full(), slot_bytes_);
  }
  // A warp that multiplies: until the next slot is full; and when its products have ended.
  __device__ void wait_slot() const { wait_barrier(full(), phase_); }
  __device__ void release(int slot, int lane) const {
    if (lane == 0) {
      arrive(place_.empty(slot));
    }
  }
  __device__ void advance() {
    if (++slot_ == slots_) {
      slot_ = 0;
      phase_ ^= 1;
    }
  }

  __device__ int slot() const { return slot_; }
  __device__ int slots() const { return slots_; }
  __device__ uint32_t memory() const { return place_.ring + uint32_t(slot_ * slot_bytes_); }
  __device__ uint32_t full() const { return place_.full(slot_); }

 private:
  const BlockPlace& place_;
  int slots_;
  int slot_bytes_;
  int slot_ = 0;
  int phase_ = 0;
};

__device__ inline void copy_input(const ManyProduct& product, const BlockPlace& place) {
  wait_for_previous();
  for (int panel = 0; panel < place.end - place.begin; ++panel) {
    arrive_expecting(place.arrived(panel), panel_bytes);
    copy_panels(place.input + uint32_t(panel * panel_bytes), product.input,
                (place.begin + panel) * panel_columns, 0, place.arrived(panel));
  }
}

// The thread that copies: weights until the ring is full, the input, and the other weights.
__device__ inline void copy(const ManyProduct& product, const BlockPlace& place) {
  const Partition& partition = product.partition;
  Ring ring(place, partition);
  prefetch_map(product.input);
  int ahead = partition.slots;
  for (int share = place.cluster; share < partition.shares; share += partition.clusters) {
    for (int panel = place.begin; panel < place.end; ++panel) {
      if (ahead-- == 0) {
        copy_input(product, place);
      }
      ring.begin_slot();
      for (int group = 0; group < partition.groups; ++group) {
        copy_panels(ring.memory() + uint32_t(group * partition.share_outputs() * panel_row_bytes),
                    product.weights[group], panel * panel_columns,
                    share * partition.share_outputs(), ring.full());
      }
      ring.advance();
    }
  }
  if (ahead >= 0) {
    copy_input(product, place);
  }
}

// A lane of a warp that multiplies: its elements of the sums, what the cluster's blocks hand over
// to each other of them, and where they go. A block owns every `cluster`-th tile of outputs, from
// its rank on.
template <int tiles, int groups, int cluster>
class Lane {
 public:
  static_assert(cluster > 1 && (cluster & (cluster - 1)) == 0 && tiles % groups == 0);
  static constexpr int output_tiles = tiles / groups;
  static constexpr int owned = (output_tiles + cluster - 1) / cluster;
  static constexpr int others = cluster - 1;
  using Sums = float[tiles][4];
  using Own = float[groups][owned][4];
  using Residual = uint32_t[owned][2];  // pairs of columns

  __device__ Lane(const ManyProduct& product, const BlockPlace& place)
      : product_(product),
        place_(place),
        lane_(int(threadIdx.x) % warp_size),
        warp_(int(threadIdx.x) / warp_size),
        row_(warp_ * strip_rows + lane_ / 4) {}

  __device__ int lane() const { return lane_; }
  // Whether the warp has sequences at all.
  __device__ bool has_rows() const { return warp_ * strip_rows < product_.rows; }

  // Asks for the residual of what this block finishes.
  __device__ void load_residual(Residual& residual, int share) const {
#pragma unroll
    for (int i = 0; i < owned; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        residual[i][half] = product_.residual && exists(share, i, half)
                                ? *reinterpret_cast<const uint32_t*>(
                                      product_.residual.at(row_ + half * 8, column(share, i)))
                                : 0;
      }
    }
  }

  // Hands over the sums that others finish, when these have read what came before.
  __device__ void send(const Sums& c, int round) const {
    if (round > 0) {
      wait_barrier(place_.drained(warp_), (round - 1) & 1);
    }
    if (lane_ == 0) {
      arrive_expecting(place_.received(warp_), received_bytes());
    }
#pragma unroll
    for (int owner = 0; owner < cluster; ++owner) {
      const int sender = (place_.rank - owner - 1) & others;
      const uint32_t target = address_in_block(fragment(sender), owner);
      const uint32_t barrier = address_in_block(place_.received(warp_), owner);
      if (owner != place_.rank) {
#pragma unroll
        for (int tile = owner; tile < output_tiles; tile += cluster) {
#pragma unroll
          for (int group = 0; group < groups; ++group) {
            hand_over(target + distance(group, tile / cluster), c[group * output_tiles + tile],
                      barrier);
          }
        }
      }
    }
  }

  // The block's own sums, with those of the others: from the next rank upwards.
  __device__ void receive(Own& own, const Sums& c, int round) const {
#pragma unroll
    for (int group = 0; group < groups; ++group) {
#pragma unroll
      for (int i = 0; i < owned; ++i) {
        select(own[group][i], c, group, i);
      }
    }
    wait_barrier(place_.received(warp_), round & 1);
#pragma unroll 1
    for (int sender = 0; sender < others; ++sender) {
#pragma unroll
      for (int group = 0; group < groups; ++group) {
#pragma unroll
        for (int i = 0; i < owned; ++i) {
          float x[4];
          load_handed(fragment(sender) + distance(group, i), x);
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            own[group][i][j] += x[j];
          }
        }
      }
    }
  }

  // Tells the others that their sums are read.
  __device__ void tell_drained() const {
    __syncwarp();
    if (lane_ < cluster && lane_ != place_.rank) {
      arrive_in_block(place_.drained(warp_), lane_);
    }
  }

  // What follows the sums, and where they go.
  __device__ void finish(Own& own, const Residual& residual, int share) const {
#pragma unroll
    for (int i = 0; i < owned; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float* y = own[0][i] + 2 * half;
        if constexpr (groups == 2) {
          const float* up = own[1][i] + 2 * half;
          y[0] = y[0] * sigmoid(y[0]) * up[0];
          y[1] = y[1] * sigmoid(y[1]) * up[1];
        }
        const float2 more = unpack_pair(residual[i][half]);
        if (exists(share, i, half)) {
          store_pair(y[0] + more.x, y[1] + more.y, row_ + half * 8, column(share, i));
        }
      }
    }
  }

 private:
  // Where the block has a lane's part of the first of its tiles from one of the others, and how far
  // from there it has that of another one.
  __device__ uint32_t fragment(int sender) const {
    return place_.sums + distance(sender * groups, 0) + threadIdx.x * fragment_bytes;
  }
  __device__ static uint32_t distance(int group, int i) {
    return uint32_t((group * owned + i) * warpgroup_threads * fragment_bytes);
  }
  __device__ int received_bytes() const {
    const int own_tiles = (output_tiles + others - place_.rank) / cluster;
    return others * groups * own_tiles * warp_size * fragment_bytes;
  }

  // own = the sums of the block's tile `i`, which has another register in each block.
  __device__ void select(float (&own)[4], const Sums& c, int group, int i) const {
#pragma unroll
    for (int owner = 0; owner < cluster; ++owner) {
      const int tile = i * cluster + owner;
      if (tile < output_tiles && (owner == 0 || owner == place_.rank)) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          own[j] = c[group * output_tiles + tile][j];
        }
      }
    }
  }

  // A lane has two columns of the block's tile `i`, of its row and of the eighth one below.
  __device__ int column(int share, int i) const {
    return (share * output_tiles + i * cluster + place_.rank) * tile_columns + lane_ % 4 * 2;
  }
  __device__ bool exists(int share, int i, int half) const {
    return i * cluster + place_.rank < output_tiles && row_ + half * 8 < product_.rows &&
           column(share, i) < product_.outputs;
  }
  __device__ void store_pair(float low, float high, int row, int at) const {
    if (product_.output) {
      *reinterpret_cast<uint32_t*>(product_.output.at(row, at)) = pack_pair(low, high);
    } else {
      *reinterpret_cast<float2*>(product_.float_output.at(row, at)) = {low, high};
    }
  }

  const ManyProduct& product_;
  const BlockPlace& place_;
  int lane_;
  int warp_;
  int row_;
};

// c = the block's part of a share's product.
template <int tiles>
__device__ __forceinline__ void multiply_share(float (&c)[tiles][4], Ring& ring,
                                               const BlockPlace& place, int lane) {
  int before = 0;
  for (int panel = 0; panel < place.end - place.begin; ++panel) {
    wait_barrier(place.arrived(panel), 0);
    ring.wait_slot();
    const uint64_t a = panel_descriptor(place.input + uint32_t(panel * panel_bytes));
    const uint64_t b = panel_descriptor(ring.memory());
    begin_products();
#pragma unroll
    for (int part = 0; part < panel_steps; ++part) {
      constexpr uint64_t distance = step_distance<PanelRows::columns>;
      warpgroup_product<PanelRows::columns, PanelRows::columns>(
          c, a + uint64_t(part) * distance, b + uint64_t(part) * distance, panel + part > 0);
    }
    commit_products();
    if (panel > 0) {
      wait_products<1>();
      ring.release(before, lane);
    }
    before = ring.slot();
    ring.advance();
  }
  wait_products();
  ring.release(before, lane);
  hold(c, tiles);
}

// The warpgroup that multiplies.
template <int tiles, int groups, int cluster>
__device__ __forceinline__ void multiply(const ManyProduct& product, const BlockPlace& place) {
  using Part = Lane<tiles, groups, cluster>;
  const Partition& partition = product.partition;
  const Part lane(product, place);
  Ring ring(place, partition);
  wait_for_previous();
  int round = 0;
  for (int share = place.cluster; share < partition.shares; share += partition.clusters) {
    typename Part::Residual residual;
    lane.load_residual(residual, share);
    typename Part::Sums c;
    multiply_share(c, ring, place, lane.lane());
    if (lane.has_rows()) {
      typename Part::Own own;
      lane.send(c, round);
      lane.receive(own, c, round);
      // Nobody waits for it after the last one, and may be gone.
      if (share + partition.clusters < partition.shares) {
        lane.tell_drained();
      }
      lane.finish(own, residual, share);
    }
    ++round;
  }
}

template <int tiles, int groups, int cluster>
__global__ void __launch_bounds__(threads, 1)
    many_kernel(const __grid_constant__ ManyProduct product) {
  let_next_start();
  const BlockPlace place(product.partition);
  const int warp = int(threadIdx.x) / warp_size;
  if (warp == warps && threadIdx.x % warp_size == 0) {
    place.init_barriers(product.partition);
  }
  sync_threads(0, threads);
  cluster_arrive_relaxed();
  if (warp == warps && threadIdx.x % warp_size == 0) {
    copy(product, place);
  }
  __syncwarp();
  // All blocks of the cluster have their barriers.
  cluster_wait();
  if (warp < warps) {
    multiply<tiles, groups, cluster>(product, place);
  }
}

}  // namespace gsa::kernels::cuda::decode_many
