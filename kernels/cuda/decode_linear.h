// Products of a decode step, as decode_linear.cu asks for them.
#pragma once

#include "kernels/cuda/cluster.h"
#include "kernels/cuda/dependent_launch.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/mma.h"
#include "kernels/decode.h"

namespace gsa::kernels::cuda::decode {

inline constexpr int multiprocessors = 132;  // of an H100 or H200: a share of the outputs each
inline constexpr int few_rows = 8;

// Clusters that run at once, a block a multiprocessor: of each group of 16 or 18 multiprocessors,
// clusters of four and more leave two unused.
inline int clusters_of(int cluster) {
  return (cluster > 2 ? multiprocessors - 4 : multiprocessors) / cluster;
}

struct LinearArgs {
  const bfloat16* input;
  int64_t input_stride;
  int rows;     // B
  int columns;  // K
  DecodeNorm norm;
  const bfloat16* norm_weight;  // or null
  float epsilon;
  const bfloat16* weight;
  int64_t up_offset;         // elements from a gate's row to its up's; 0: no swiglu
  int outputs;               // N
  const bfloat16* residual;  // or null
  int64_t residual_stride;
  bfloat16* output;     // or null:
  float* float_output;  // in float32
  int64_t output_stride;
  int cluster;  // blocks that share outputs, each with a part of the depth
};

// decode_linear_few.cu: up to 8 sequences; K a multiple of 32.
bool takes_few(int64_t rows, int64_t columns);
void run_few(Stream& stream, LinearArgs args);

// decode_linear_many.cu: 9 to 64 sequences in bfloat16; K a multiple of 64, from 256 to 5632.
bool takes_many(const DecodeLinear& args);
void run_many(Stream& stream, const DecodeLinear& args);

// Elements [begin, end).
struct Span {
  int begin;
  int end;
  __host__ __device__ int size() const { return end - begin; }
};

// A span in parts as equal as can be. Divides once: a division takes as long as a round trip to
// shared memory.
struct Parts {
  int begin;
  int each;
  int longer;  // parts that have one more: the first ones

  __device__ Parts(Span whole, int count)
      : begin(whole.begin),
        each(int(unsigned(whole.size()) / unsigned(count))),
        longer(whole.size() - each * count) {}
  __device__ Span part(int i) const {
    const int first = begin + i * each + min(i, longer);
    return {first, first + each + (i < longer ? 1 : 0)};
  }
};

__device__ inline float swish(float x) {
  return x * sigmoid(x);
}

// x, a vector of the input, is multiplied by the norm's weight. Returns the sum of its squares.
__device__ inline float apply_norm(const LinearArgs& args, float (&x)[vector_width],
                                   const bfloat16* weight) {
  float squares = 0.0F;
#pragma unroll
  for (int j = 0; j < vector_width; ++j) {
    squares = fmaf(x[j], x[j], squares);
  }
  if (args.norm_weight != nullptr) {
    float scale[vector_width];
    load(weight, scale);
#pragma unroll
    for (int j = 0; j < vector_width; ++j) {
      x[j] *= scale[j];
    }
  }
  return squares;
}

__device__ inline float inverse_rms(const LinearArgs& args, float squares) {
  return args.norm == DecodeNorm::none ? 1.0F
                                       : rsqrtf(squares / float(args.columns) + args.epsilon);
}

// Writes output (n, output).
__device__ inline void write_output(const LinearArgs& args, int n, int output, float y) {
  if (args.output != nullptr) {
    args.output[n * args.output_stride + output] = from_float<bfloat16>(y);
  } else {
    args.float_output[n * args.output_stride + output] = y;
  }
}

}  // namespace gsa::kernels::cuda::decode
