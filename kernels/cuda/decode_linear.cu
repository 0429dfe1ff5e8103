// Products of a decode step: few rows times a whole weight matrix, bound by reading the weights
// once. Up to eight sequences in bfloat16 are one kernel on tensor cores (decode_linear_few.cu), up
// to 64 another one (decode_linear_many.cu), each with the same bits for a sequence in every batch;
// others go through cuBLASLt.
#include "kernels/cuda/decode_linear.h"

#include "kernels/backends.h"
#include "kernels/cuda/decode_workspace.h"

namespace gsa::kernels::cuda {
namespace {

using decode::LinearArgs;
using decode::swish;

constexpr int warps = 8;
constexpr int threads = warps * warp_size;

__device__ inline float warp_sum(float value) {
#pragma unroll
  for (int lanes = warp_size / 2; lanes > 0; lanes /= 2) {
    value += __shfl_xor_sync(~0U, value, lanes);
  }
  return value;
}

// Any sizes and types, a warp an output: float32, and what the tensor cores do not take.
template <typename T>
struct PlainArgs {
  Rows<const T> input;
  int rows;
  int columns;
  DecodeNorm norm;
  const T* norm_weight;
  float epsilon;
  const T* weight;
  int64_t up_offset;
  int outputs;
  Rows<const T> residual;
  Rows<T> output;
  Rows<float> float_output;
};

template <typename T>
__global__ void __launch_bounds__(threads) plain_kernel(const PlainArgs<T> args) {
  const int lane = int(threadIdx.x) % warp_size;
  const int output = int(blockIdx.x) * warps + int(threadIdx.x) / warp_size;
  const int row = int(blockIdx.y);
  if (output >= args.outputs) {
    return;
  }
  const T* weight = args.weight + int64_t(output) * args.columns;
  float squares = 0.0F;
  float sum = 0.0F;
  float up = 0.0F;
  for (int k = lane; k < args.columns; k += warp_size) {
    float x = to_float(*args.input.at(row, k));
    squares += x * x;
    x *= args.norm_weight != nullptr ? to_float(args.norm_weight[k]) : 1.0F;
    sum += x * to_float(weight[k]);
    up += args.up_offset != 0 ? x * to_float(weight[args.up_offset + k]) : 0.0F;
  }
  const float inverse = args.norm == DecodeNorm::none
                            ? 1.0F
                            : 1.0F / sqrtf(warp_sum(squares) / float(args.columns) + args.epsilon);
  float y = warp_sum(sum) * inverse;
  up = warp_sum(up) * inverse;
  if (lane != 0) {
    return;
  }
  y = args.up_offset != 0 ? swish(y) * up : y;
  y += args.residual ? to_float(*args.residual.at(row, output)) : 0.0F;
  if (args.output) {
    *args.output.at(row, output) = from_float<T>(y);
  } else {
    *args.float_output.at(row, output) = y;
  }
}

int64_t up_offset_of(const DecodeLinear& args) {
  return args.activation == DecodeActivation::swiglu ? args.weight.count() / 2 : 0;
}

template <typename T>
void run_plain(Stream& stream, const DecodeLinear& args) {
  PlainArgs<T> plain{};
  plain.input = rows_of<T>(args.input);
  plain.rows = int(args.input.dim(0));
  plain.columns = int(args.input.dim(1));
  plain.norm = args.norm;
  plain.norm_weight = elements_of<T>(args.norm_weight);
  plain.epsilon = float(args.epsilon);
  plain.weight = elements_of<T>(args.weight);
  plain.up_offset = up_offset_of(args);
  plain.outputs = int(args.output.dim(1));
  plain.residual = rows_of<T>(args.residual);
  if (args.output.dtype() == args.input.dtype()) {
    plain.output = rows_of<T>(args.output);
  } else {
    plain.float_output = rows_of<float>(args.output);
  }
  const dim3 grid(blocks_of(plain.outputs, warps), unsigned(plain.rows));
  plain_kernel<T><<<grid, threads, 0, native(stream)>>>(plain);
  check_launch("decode_linear");
}

bool takes_tensor_cores(const DecodeLinear& args) {
  return args.input.dtype() == DType::bfloat16 &&
         are_aligned(args.input, args.weight, args.norm_weight) &&
         decode::takes_few(args.input.dim(0), args.input.dim(1));
}

LinearArgs linear_args(const DecodeLinear& args) {
  LinearArgs linear{};
  linear.rows = int(args.input.dim(0));
  linear.columns = int(args.input.dim(1));
  linear.norm = args.norm;
  linear.norm_weight = elements_of<bfloat16>(args.norm_weight);
  linear.epsilon = float(args.epsilon);
  linear.weight = elements_of<bfloat16>(args.weight);
  linear.up_offset = up_offset_of(args);
  linear.outputs = int(args.output.dim(1));
  linear.input = rows_of<bfloat16>(args.input).data;
  linear.input_stride = args.input.row_stride();
  linear.residual = rows_of<bfloat16>(args.residual).data;
  linear.residual_stride = args.residual.row_stride();
  if (args.output.dtype() == DType::bfloat16) {
    linear.output = rows_of<bfloat16>(args.output).data;
  } else {
    linear.float_output = rows_of<float>(args.output).data;
  }
  linear.output_stride = args.output.row_stride();
  return linear;
}

// Any sequences: the operations of training one after the other, the residual added by the product.
void run_operations(Stream& stream, const DecodeLinear& args, std::byte* workspace) {
  const int64_t rows = args.input.dim(0);
  const bool gated = args.activation == DecodeActivation::swiglu;
  const DType dtype = args.input.dtype();
  const DecodeWorkspace layout(args);
  const auto tensor = [&](size_t offset, DType type, Shape shape) {
    return Tensor(workspace + offset, type, Device::cuda, shape);
  };
  ConstTensor x = args.input;
  if (args.norm == DecodeNorm::rms_norm) {
    const Tensor normalized = tensor(layout.normalized, dtype, args.input.shape());
    rms_norm_forward(stream, {.input = args.input,
                              .weight = args.norm_weight,
                              .epsilon = args.epsilon,
                              .output = normalized,
                              .inverse_rms = tensor(layout.inverse_rms, DType::float32, {rows})});
    x = normalized;
  }
  if (args.residual && args.residual.data() != args.output.data()) {
    const size_t width = size_t(args.output.dim(1)) * size_of(dtype);
    check(
        cudaMemcpy2DAsync(args.output.data(), size_t(args.output.row_stride()) * size_of(dtype),
                          args.residual.data(), size_t(args.residual.row_stride()) * size_of(dtype),
                          width, size_t(rows), cudaMemcpyDeviceToDevice, native(stream)),
        "cudaMemcpy2DAsync");
  }
  const Tensor product =
      gated ? tensor(layout.product, dtype, {rows, args.weight.dim(0)}) : args.output;
  matmul(stream,
         {.a = x,
          .b = args.weight,
          .transpose_b = Transpose::yes,
          .accumulate = args.residual ? Accumulate::yes : Accumulate::no,
          .c = product},
         workspace + layout.matmul);
  if (gated) {
    swiglu_forward(stream, {.gate_up = product, .output = args.output});
  }
}

}  // namespace

void decode_linear(Stream& stream, const DecodeLinear& args, std::byte* workspace) {
  if (args.input.dim(0) == 0 || args.output.dim(1) == 0) {
    return;
  }
  if (args.input.dim(0) > decode_few_rows) {
    if (decode::takes_many(args)) {
      decode::run_many(stream, args);
    } else {
      run_operations(stream, args, workspace);
    }
  } else if (takes_tensor_cores(args)) {
    decode::run_few(stream, linear_args(args));
  } else {
    with_element(args.input.dtype(), "decode_linear",
                 [&](auto element) { run_plain<decltype(element)>(stream, args); });
  }
}

}  // namespace gsa::kernels::cuda
