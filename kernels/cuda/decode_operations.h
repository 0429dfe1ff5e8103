// What kernels that run several operations of a decode step have to know of each, in bfloat16.
#pragma once

#include "kernels/cuda/launch.h"
#include "kernels/decode.h"

namespace gsa::kernels::cuda::decode {

struct LinearOperation {
  const bfloat16* input;
  const bfloat16* norm_weight;  // or null
  const bfloat16* weight;
  const bfloat16* residual;  // or null
  void* output;
  int input_stride;
  int residual_stride;
  int output_stride;
  int columns;  // K
  int outputs;  // N
  float epsilon;
  bool norm;
  bool gated;         // swiglu
  bool float_output;  // the output is float32
};

// K = V, 64 slots.
struct GsaOperation {
  const bfloat16* projected;
  float* key_state;
  float* value_state;
  bfloat16* output;
  int projected_stride;
  int output_stride;
  int query_heads;
  int heads;
  int dim;
  float gate_factor;  // 1 / normalizer
  float scale;
};

inline LinearOperation linear_operation(const DecodeLinear& args) {
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
  return linear;
}

inline GsaOperation gsa_operation(const GsaDecode& args) {
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
  return gsa;
}

__device__ inline float swish(float x) {
  return x * sigmoid(x);
}

// How blocks of one kernel meet: a counter in memory of how often one of them has arrived.
// A wait for other blocks that takes this long will never end: better an error than a hang.
inline constexpr long long hopeless_cycles = 1LL << 36;

// What the calling thread sees of this block's writes (it has passed a barrier with those who
// wrote) every thread that is behind `wait_for_blocks` sees, and whoever meets that one at a
// barrier.
__device__ inline void arrive_at_blocks(uint32_t* arrivals) {
  asm volatile("red.release.gpu.global.add.u32 [%0], 1;\n" ::"l"(arrivals) : "memory");
}
__device__ inline void wait_for_blocks(const uint32_t* arrivals, uint32_t wanted) {
  const long long begin = clock64();
  uint32_t seen;
  do {
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];\n" : "=r"(seen) : "l"(arrivals) : "memory");
    if (clock64() - begin > hopeless_cycles) {
      __trap();
    }
  } while (seen < wanted);
}

}  // namespace gsa::kernels::cuda::decode
