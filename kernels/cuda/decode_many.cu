// A decode step of many sequences, up to 64, in bfloat16 as one kernel, bound by reading the
// weights and by reading and writing the states.
//
// A block a multiprocessor, in clusters of 8, runs through the step's operations; between two of
// them all blocks meet. Neither weights nor states depend on what a step computes (each state is
// taken once in it), so one thread copies the block's share of all of them, in order, into a ring
// in shared memory, ahead of what is computed: memory is busy while blocks meet, load their inputs
// and exchange sums.
//
// Products: decode_many_linear.h. GSA steps: decode_many_gsa.h.
//
// Bytes at batch 64 of the 1.3B model: 2.62 GB of weights, 3.22 GB of states read and written: 1.36
// ms at 4.29 TB/s.
#include <algorithm>
#include <variant>

#include "kernels/backends.h"
#include "kernels/cuda/decode_many_gsa.h"
#include "kernels/cuda/decode_many_host.h"
#include "kernels/cuda/decode_many_linear.h"
#include "kernels/cuda/decode_workspace.h"
#include "kernels/cuda/dependent_launch.h"
#include "kernels/cuda/tensor_map.h"

namespace gsa::kernels::cuda::decode {
namespace {

// Slots that are being copied at a time: what is asked for stands in front of whatever else the
// blocks want from memory.
constexpr int most_under_way = 4;

// Fills the ring: one thread.
class Filler {
 public:
  struct Slot {
    uint32_t target;
    uint32_t full;
  };

  __device__ explicit Filler(const ManyShared& shared) : shared_(shared), policy_(read_once()) {}

  // The next slot, once it is free: `bytes` will be copied there.
  __device__ Slot begin(int bytes) {
    if (begun_ >= most_under_way) {
      wait_barrier(shared_.full(oldest_.slot), oldest_.phase);
      oldest_.advance(1);
    } else {
      ++begun_;
    }
    wait_barrier(shared_.empty(next_.slot), next_.phase ^ 1);
    const Slot slot{shared_address(shared_.slot(next_.slot)), shared_.full(next_.slot)};
    arrive_expecting(slot.full, bytes);
    next_.advance(1);
    return slot;
  }
  __device__ uint64_t policy() const { return policy_; }

 private:
  ManyShared shared_;
  uint64_t policy_;
  int begun_ = 0;
  RingPlace next_;
  RingPlace oldest_;  // that may be under way
};

__device__ void copy_all(const ManyStep& step, const ManyShared& shared) {
  Filler filler(shared);
  for (int number = 0; number < step.count; ++number) {
    if (step.operations[number].is_gsa) {
      copy_states(step, number, filler);
    } else {
      copy_product(step, number, filler);
    }
  }
}

__device__ void take_all(const ManyStep& step, const ManyShared& shared) {
  RingPlace ring;
  GroupMeeting meeting;
  ScorePhases scores;
  for (int number = 0; number < step.count; ++number) {
    const auto wait_for_input = [&] {
      if (number > 0) {
        if (threadIdx.x == 0) {
          wait_for_blocks(step.arrivals, uint32_t(number) * gridDim.x);
        }
        sync_taking();
      }
      meeting.wait_until_taken(*shared.fixed);
    };
    const ManyOperation& operation = step.operations[number];
    if (operation.is_gsa) {
      take_gsa(operation, shared, ring, scores, wait_for_input);
    } else {
      take_product(step, operation, shared, ring, meeting, wait_for_input);
    }
    if (threadIdx.x == 0 && number + 1 < step.count) {
      arrive_at_blocks(step.arrivals);
    }
  }
  meeting.wait_until_taken(*shared.fixed);  // nobody leaves while its sums are read
}

__global__ void __launch_bounds__(many_threads, 1)
    many_kernel(const __grid_constant__ ManyStep step) {
  extern __shared__ __align__(1024) unsigned char memory[];
  const ManyShared shared(memory);
  if (threadIdx.x == 0) {
    for (int slot = 0; slot < ring_slots; ++slot) {
      init_barrier(shared.full(slot), 1);
      init_barrier(shared.empty(slot), warpgroup_threads / warp_size);
    }
    init_barrier(shared_address(&shared.fixed->sums), many_cluster);
    init_barrier(shared_address(&shared.fixed->taken), many_cluster);
    for (int i = 0; i < teams * score_buffers; ++i) {
      init_barrier(shared_address(&shared.fixed->scores[0][0] + i), 1);
    }
    publish_barriers();
  }
  __syncthreads();
  cluster_arrive();
  if (threadIdx.x < taking_threads) {
    take_registers<taking_registers>();
    cluster_wait();
    wait_for_previous();
    take_all(step, shared);
  } else {
    give_registers<copying_registers>();
    if (threadIdx.x == taking_threads) {
      copy_all(step, shared);
    }
    __syncwarp();
    cluster_wait();
  }
}

CUtensorMap encode_map(CUtensorMapDataType type, CUtensorMapSwizzle swizzle, const void* data,
                       const cuuint64_t (&sizes)[4], const cuuint64_t (&strides)[3],
                       const cuuint32_t (&box)[4]) {
  CUtensorMap map;
  const cuuint32_t steps[4] = {1, 1, 1, 1};
  const CUresult result =
      tensor_map_encoder()(&map, type, 4, const_cast<void*>(data), sizes, strides, box, steps,
                           CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
                           CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    throw DeviceError("the CUDA driver takes no tensor map of a matrix [" +
                      std::to_string(sizes[1]) + ", " + std::to_string(sizes[0]) + "]: error " +
                      std::to_string(int(result)));
  }
  return map;
}

// Weights as boxes of 64 rows (with swiglu 8 gates and their 8 ups in turn) by 64 columns.
CUtensorMap map_weights(const LinearOperation& linear) {
  const auto columns = cuuint64_t(linear.columns);
  const auto outputs = cuuint64_t(linear.outputs);
  const cuuint64_t row_bytes = columns * sizeof(bfloat16);
  cuuint64_t sizes[4] = {columns, outputs, 1, 1};
  cuuint64_t strides[3] = {row_bytes, outputs * row_bytes, outputs * row_bytes};
  cuuint32_t box[4] = {panel_columns, many_unit_rows, 1, 1};
  if (linear.gated) {
    constexpr int eight = 8;
    sizes[1] = eight;
    sizes[2] = 2;
    sizes[3] = outputs / eight;
    strides[2] = eight * row_bytes;
    box[1] = eight;
    box[2] = 2;
    box[3] = many_unit_rows / 16;
  }
  return encode_map(CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, CU_TENSOR_MAP_SWIZZLE_128B, linear.weight,
                    sizes, strides, box);
}

// Values as boxes of a head's slots by 64 columns.
CUtensorMap map_values(const GsaOperation& gsa, int units) {
  const auto columns = cuuint64_t(gsa.dim);
  const auto rows = cuuint64_t(units) * many_slots;
  const cuuint64_t row_bytes = columns * sizeof(float);
  const cuuint64_t sizes[4] = {columns, rows, 1, 1};
  const cuuint64_t strides[3] = {row_bytes, rows * row_bytes, rows * row_bytes};
  const cuuint32_t box[4] = {many_part, many_slots, 1, 1};
  return encode_map(CU_TENSOR_MAP_DATA_TYPE_FLOAT32, CU_TENSOR_MAP_SWIZZLE_NONE, gsa.value_state,
                    sizes, strides, box);
}

int panels_of(int64_t columns, int split) {
  const int64_t panels = (columns + panel_columns - 1) / panel_columns;
  return int((panels + split - 1) / split);
}

// Blocks that share a unit: it follows from the depth alone, and so does the sums' order.
int split_of(const DecodeLinear& args) {
  constexpr int few = many_cluster / 2;
  return panels_of(args.input.dim(1), few) <= part_panels ? few : many_cluster;
}
int split_of(const GsaDecode& /*args*/) {
  return many_cluster;
}

int64_t units_of(const DecodeLinear& args) {
  const bool gated = args.activation == DecodeActivation::swiglu;
  const int64_t outputs = gated ? many_unit_rows / 2 : many_unit_rows;
  return (args.output.dim(1) + outputs - 1) / outputs;
}
int64_t units_of(const GsaDecode& args) {
  return args.projected.dim(0) * args.query_heads;
}

// Units that a group of blocks has at most.
template <typename Args>
int64_t group_units(const Args& args, int blocks) {
  const int64_t groups = blocks / split_of(args);
  return (units_of(args) + groups - 1) / groups;
}

bool are_fours(const ConstTensor& tensor) {
  return is_aligned(tensor) && tensor.row_stride() % 4 == 0;
}

// Only sizes of which the tests have been run on a GPU: see NOTES.md.
bool takes(const DecodeLinear& args, int blocks) {
  const int64_t columns = args.input.dim(1);
  const int64_t outputs = args.output.dim(1);
  return args.input.dtype() == DType::bfloat16 && columns > 0 && columns % vector_width == 0 &&
         panels_of(columns, split_of(args)) <= part_panels && outputs > 0 && outputs % 8 == 0 &&
         group_units(args, blocks) <= part_units && are_fours(args.output) &&
         (!args.residual || are_fours(args.residual)) &&
         are_aligned(args.input, args.weight, args.norm_weight) &&
         args.input.data() != args.output.data();
}
bool takes(const GsaDecode& args, int blocks) {
  return args.projected.dtype() == DType::bfloat16 && args.slots() == many_slots &&
         args.key_dim() == many_cluster * many_part && args.value_dim() == args.key_dim() &&
         are_aligned(args.projected, args.key_state, args.value_state) &&
         GsaWork::bytes(group_units(args, blocks)) <= work_bytes;
}

int64_t sequences_of(const AnyOperation& operation) {
  const auto* linear = std::get_if<DecodeLinear>(&operation);
  return linear != nullptr ? linear->input.dim(0) : std::get<GsaDecode>(operation).projected.dim(0);
}

CUtensorMap fill(ManyOperation& operation, const DecodeLinear& args) {
  operation.is_gsa = false;
  operation.linear = linear_operation(args);
  return map_weights(operation.linear);
}
CUtensorMap fill(ManyOperation& operation, const GsaDecode& args) {
  operation.is_gsa = true;
  operation.gsa = gsa_operation(args);
  return map_values(operation.gsa, int(units_of(args)));
}

// Blocks that run at once, in whole clusters; 0 where there are no clusters of 8.
int blocks_at_once() {
  check(cudaFuncSetAttribute(many_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             many_shared_bytes),
        "decode_step");
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = many_cluster;
  attribute.val.clusterDim.y = 1;
  attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(many_cluster);
  config.blockDim = dim3(many_threads);
  config.dynamicSmemBytes = many_shared_bytes;
  config.attrs = &attribute;
  config.numAttrs = 1;
  int clusters = 0;
  check(cudaOccupancyMaxActiveClusters(&clusters, many_kernel, &config), "decode_step");
  return clusters * many_cluster;
}

// All blocks run at once: they wait for each other.
void launch(Stream& stream, Operations operations, int blocks, std::byte* workspace) {
  ManyStep step{};
  step.rows = int(sequences_of(operations.front()));
  step.arrivals = reinterpret_cast<uint32_t*>(workspace);
  int next[many_cluster + 1] = {};  // by split: the group that is next
  for (const AnyOperation& any : operations) {
    ManyOperation& operation = step.operations[step.count];
    std::visit(
        [&](const auto& args) {
          step.maps[step.count] = fill(operation, args);
          operation.split = int16_t(split_of(args));
          operation.units = int(units_of(args));
        },
        any);
    int& first = next[operation.split];
    operation.first = int16_t(first);
    first = (first + operation.units) % (blocks / operation.split);
    ++step.count;
  }
  clear_before_step(stream, workspace, access_bytes);
  launch_dependent(many_kernel,
                   {.blocks = unsigned(blocks),
                    .threads = many_threads,
                    .cluster = many_cluster,
                    .shared_bytes = many_shared_bytes},
                   step, stream, "decode_step");
}

}  // namespace

size_t run_many(Stream& stream, Operations operations, std::byte* workspace) {
  if (operations.empty() || sequences_of(operations.front()) != many_rows) {
    return 0;
  }
  const int blocks = blocks_at_once();
  size_t count = 0;
  const auto taken = [&](const AnyOperation& operation) {
    return std::visit([&](const auto& args) { return takes(args, blocks); }, operation);
  };
  while (blocks > 0 && count < operations.size() && taken(operations[count])) {
    ++count;
  }
  if (count == 0 || count + 1 < operations.size()) {
    return 0;
  }
  for (size_t begin = 0; begin < count; begin += max_many_operations) {
    launch(stream, operations.subspan(begin, std::min<size_t>(count - begin, max_many_operations)),
           blocks, workspace);
  }
  return count;
}

}  // namespace gsa::kernels::cuda::decode
