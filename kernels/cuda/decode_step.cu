// A decode step of up to 8 sequences in bfloat16 as one kernel, bound by reading the weights.
//
// A block a multiprocessor runs through the step's operations; between two of them all blocks meet.
// Weights depend on nothing, so one warp copies the block's share of all of them, in order, into a
// ring in shared memory, ahead of what is computed: 192 KB a multiprocessor, 6 us of reading, come
// in while blocks wait for each other and for their inputs.
//
// Products: decode_step_linear.h. GSA steps: decode_step_gsa.h.
//
// Bytes at batch 1 of the 1.3B model: 2.62 GB of weights, 0.62 ms at 4.29 TB/s. Without them,
// blocks that wait for each other and compute take 0.61 ms (NOTES.md): 5 phases a layer, each about
// 0.8 us until all blocks have met, 0.5 for the input, 0.5 a unit of the block's share, 0.3 for the
// last sums.
#include "kernels/cuda/decode_step.h"

#include <algorithm>
#include <span>
#include <variant>

#include "kernels/backends.h"
#include "kernels/cuda/decode_step_gsa.h"
#include "kernels/cuda/decode_step_linear.h"
#include "kernels/cuda/dependent_launch.h"
#include "kernels/cuda/launch.h"

namespace gsa::kernels::cuda {
namespace decode {
namespace {

// A GSA step, by how many parts the block has.
template <int parts, typename WaitForInput>
__device__ inline void take_parts(const Step& step, int number, GsaShared& shared,
                                  WaitForInput&& wait_for_input) {
  const Operation& operation = step.operations[number];
  const bool more = first_unit(operation) + parts * int(gridDim.x) < operation.units;
  if constexpr (parts < max_parts) {
    if (more) {
      take_parts<parts + 1>(step, number, shared, wait_for_input);
      return;
    }
  }
  gsa_step<parts>(step, number, shared, wait_for_input);
}

__device__ void multiply(const Step& step, StepShared& shared, int warp, int lane) {
  Cursor<ring_chunks> weights;
  Cursor<sum_slots> sums;
  for (int number = 0; number < step.count; ++number) {
    const auto wait_for_input = [&] {
      if (number > 0) {
        wait_barrier(shared_address(&shared.ready), (number - 1) & 1);
      }
    };
    const Operation& operation = step.operations[number];
    if (!has_units(operation)) {
      wait_for_input();
      tell_finishing();
    } else if (operation.is_gsa) {
      take_parts<1>(step, number, shared.gsa, wait_for_input);
      tell_finishing();
    } else {
      multiply_units(step, operation, shared, weights, sums, warp, lane, wait_for_input);
    }
  }
}

// Finishes the block's outputs; then meets the other blocks, and lets this one's warps go on.
__device__ void finish(const Step& step, StepShared& shared, int thread) {
  const uint32_t ready = shared_address(&shared.ready);
  Cursor<sum_slots> sums;
  for (int number = 0; number < step.count; ++number) {
    if (number > 0) {
      wait_barrier(ready, (number - 1) & 1);
    }
    const Operation& operation = step.operations[number];
    if (operation.is_gsa || !has_units(operation)) {
      wait_for_multiplying();
    } else {
      finish_units(step, operation, shared, sums, thread);
    }
    if (number + 1 == step.count) {
      return;
    }
    // All arrive for what they have read, the first thread when the blocks have met.
    if (thread > 0) {
      arrive(ready);
    }
    sync_threads(finish_barrier, finish_threads);
    if (thread == 0) {
      arrive_at_blocks(step.arrivals);
      wait_for_blocks(step.arrivals, uint32_t(number + 1) * gridDim.x);
      arrive(ready);
    }
  }
}

__global__ void __launch_bounds__(step_threads, 1) step_kernel(const __grid_constant__ Step step) {
  extern __shared__ __align__(128) unsigned char memory[];
  StepShared& shared = *reinterpret_cast<StepShared*>(memory);
  if (threadIdx.x == 0) {
    for (int slot = 0; slot < ring_chunks; ++slot) {
      for (int half = 0; half < halves; ++half) {
        init_barrier(shared_address(&shared.weights_full[slot][half]), 1);
      }
    }
    for (int slot = 0; slot < sum_slots; ++slot) {
      init_barrier(shared_address(&shared.sums_empty[slot]), finish_threads);
    }
    init_barrier(shared_address(&shared.ready), finish_threads);
    publish_barriers();
  }
  __syncthreads();
  const int warp = __shfl_sync(~0U, int(threadIdx.x) / warp_size, 0);
  const int lane = int(threadIdx.x) % warp_size;
  if (warp == multiply_warps + finish_warps) {
    copy_weights(step, shared, lane);
    return;
  }
  if (warp < multiply_warps) {
    // The copying warp does not wait for the kernel before.
    for (int chunk = 0; chunk < ring_chunks; ++chunk) {
      tell_chunk_empty(chunk);
    }
  }
  wait_for_previous();
  if (warp < multiply_warps) {
    multiply(step, shared, warp, lane);
  } else {
    finish(step, shared, int(threadIdx.x) - multiply_threads);
  }
}

// Clears what blocks tell each other; the step's blocks take their places and begin to copy weights
// meanwhile.
constexpr int clear_threads = 256;
__global__ void __launch_bounds__(clear_threads) clear_kernel(uint4* memory, int count) {
  let_next_start();
  const int i = int(blockIdx.x) * clear_threads + int(threadIdx.x);
  if (i < count) {
    memory[i] = uint4{};
  }
}

// What the kernel takes. The answer is the same for 1 to 8 sequences.
bool takes(const DecodeLinear& args, int /*blocks*/) {
  const int64_t columns = args.input.dim(1);
  const int tiles = args.norm == DecodeNorm::none ? max_tiles : max_norm_tiles;
  return args.input.dtype() == DType::bfloat16 && columns > 0 && columns % warp_columns == 0 &&
         columns <= tiles * tile_columns && args.output.dim(1) > 0 &&
         are_aligned(args.input, args.weight, args.norm_weight) &&
         args.input.data() != args.output.data();
}
bool takes(const GsaDecode& args, int blocks) {
  const int64_t ranks = args.key_dim() / part_dim;
  return args.projected.dtype() == DType::bfloat16 && !args.kept && args.slots() == part_slots &&
         args.key_dim() == args.value_dim() && args.key_dim() % part_dim == 0 && ranks > 0 &&
         ranks <= max_ranks &&
         step_rows * args.query_heads * ranks <= max_parts * int64_t(blocks) &&
         are_aligned(args.key_state, args.value_state);
}

static_assert(step_rows == decode_few_sequences);

using AnyOperation = std::variant<DecodeLinear, GsaDecode>;
using Operations = std::span<const AnyOperation>;

int64_t sequences_of(const AnyOperation& operation) {
  const auto* linear = std::get_if<DecodeLinear>(&operation);
  return linear != nullptr ? linear->input.dim(0) : std::get<GsaDecode>(operation).projected.dim(0);
}

bool takes(const DecodeStep& args, int blocks) {
  const auto taken = [&](const AnyOperation& operation) {
    return std::visit([&](const auto& one) { return takes(one, blocks); }, operation);
  };
  if (args.operations.empty()) {
    return false;
  }
  const int64_t sequences = sequences_of(args.operations.front());
  return sequences > 0 && sequences <= step_rows &&
         std::all_of(args.operations.begin(), args.operations.end(), taken);
}

void fill(Operation& operation, const DecodeLinear& args) {
  LinearOperation linear{};
  linear.input = rows_of<bfloat16>(args.input).data;
  linear.norm_weight = elements_of<bfloat16>(args.norm_weight);
  linear.weight = elements_of<bfloat16>(args.weight);
  linear.residual = rows_of<bfloat16>(args.residual).data;
  linear.output = args.output.data();
  linear.input_stride = int(args.input.row_stride());
  linear.residual_stride = int(args.residual.row_stride());
  linear.output_stride = int(args.output.row_stride());
  linear.columns = int(args.input.dim(1));
  linear.outputs = int(args.output.dim(1));
  linear.epsilon = float(args.epsilon);
  linear.norm = args.norm == DecodeNorm::rms_norm;
  linear.gated = args.activation == DecodeActivation::swiglu;
  linear.float_output = args.output.dtype() == DType::float32;
  const int outputs = linear.gated ? unit_rows / 2 : unit_rows;
  operation.is_gsa = false;
  operation.units = (linear.outputs + outputs - 1) / outputs;
  operation.linear = linear;
}

void fill(Operation& operation, const GsaDecode& args) {
  GsaOperation gsa{};
  gsa.projected = rows_of<bfloat16>(args.projected).data;
  gsa.key_state = elements_of<float>(args.key_state);
  gsa.value_state = elements_of<float>(args.value_state);
  gsa.output = rows_of<bfloat16>(args.output).data;
  gsa.projected_stride = int(args.projected.row_stride());
  gsa.output_stride = int(args.output.row_stride());
  gsa.query_heads = int(args.query_heads);
  gsa.heads = int(args.heads);
  gsa.dim = int(args.key_dim());
  gsa.gate_factor = float(1.0 / args.gate_normalizer);
  gsa.scale = float(args.scale);
  operation.is_gsa = true;
  operation.units = int(args.projected.dim(0)) * gsa.query_heads * (gsa.dim / part_dim);
  operation.gsa = gsa;
}

// All blocks run at once, or the launch fails: they wait for each other.
void launch(Stream& stream, Operations operations, int blocks, std::byte* workspace, size_t bytes) {
  Step step{};
  step.rows = int(sequences_of(operations.front()));
  step.count = int(operations.size());
  const DecodeStepWorkspace layout(0);
  step.arrivals = reinterpret_cast<uint32_t*>(workspace + layout.arrivals);
  step.scores = reinterpret_cast<uint64_t*>(workspace + layout.scores);
  int first = 0;
  for (int i = 0; i < step.count; ++i) {
    Operation& operation = step.operations[i];
    std::visit([&](const auto& args) { fill(operation, args); }, operations[size_t(i)]);
    operation.first = first;
    first = (first + operation.units) % blocks;
  }
  const int words = int(bytes / sizeof(uint4));
  clear_kernel<<<blocks_of(words, clear_threads), clear_threads, 0, native(stream)>>>(
      reinterpret_cast<uint4*>(workspace), words);
  check_launch("decode_step");
  check(cudaFuncSetAttribute(step_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             int(sizeof(StepShared))),
        "decode_step");
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeCooperative;
  attributes[0].val.cooperative = 1;
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned(blocks));
  config.blockDim = dim3(step_threads);
  config.dynamicSmemBytes = sizeof(StepShared);
  config.stream = native(stream);
  config.attrs = attributes;
  config.numAttrs = 2;
  check(cudaLaunchKernelEx(&config, step_kernel, step), "decode_step");
}

}  // namespace
}  // namespace decode

void decode_step(Stream& stream, const DecodeStep& args, std::byte* workspace) {
  const int blocks = multiprocessors_of_device();
  if (!decode::takes(args, blocks)) {
    for (const auto& operation : args.operations) {
      if (const auto* linear = std::get_if<DecodeLinear>(&operation)) {
        decode_linear(stream, *linear, workspace);
      } else {
        gsa_decode(stream, std::get<GsaDecode>(operation), workspace);
      }
    }
    return;
  }
  decode::Operations left(args.operations);
  while (!left.empty()) {
    const auto now = left.first(std::min<size_t>(left.size(), decode::max_operations));
    decode::launch(stream, now, blocks, workspace, decode_step_workspace(args));
    left = left.subspan(now.size());
  }
}

}  // namespace gsa::kernels::cuda
