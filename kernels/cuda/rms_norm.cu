// RMS normalization forward, alone or with the swish before it.
//
// A block a row, which lies in its registers, `count` vectors a thread: small blocks, so that many
// rows are on their way from memory at once.
//
// Bytes a bf16 element: 4. A dozen operations (plus an exponential and a division with swish) an
// element: the memory's time is the floor.
#include "kernels/backends.h"
#include "kernels/cuda/rms_norm_rows.h"

namespace gsa::kernels::cuda {
namespace {

// Vectors a thread takes of a long row: many loads in flight.
constexpr int forward_vectors = 4;

// Arguments of the forward kernel; `weight` may be absent.
template <typename T>
struct ForwardArguments {
  Rows<const T> input;
  const T* weight;
  float epsilon;
  Rows<T> output;
  float* inverse_rms;
  int64_t rows;
  int columns;
};
// Reads this thread's part of a row and applies the activation; returns the sum of squares.
template <Activation activation, typename T, int width, int count>
__device__ float read_row(const ForwardArguments<T>& args, int64_t row, float (&x)[count][width]) {
  using Part = Slice<T, width, count>;
  Part input;
  input.load(args.input, row, args.columns);
  float squares = 0;
#pragma unroll
  for (int i = 0; i < count; ++i) {
    const int column = Part::column(i);
    if (column >= args.columns) {
      continue;
    }
    input.vectors[i].unpack(x[i]);
#pragma unroll
    for (int j = 0; j < width; ++j) {
      if constexpr (activation == Activation::swish) {
        x[i][j] *= sigmoid(x[i][j]);
      }
      squares += x[i][j] * x[i][j];
    }
  }
  return squares;
}

template <typename T, int width, int count, Activation activation>
__global__ void __launch_bounds__(norm_max_threads) forward_kernel(const ForwardArguments<T> args) {
  __shared__ float sums[norm_max_warps];
  const int64_t row = blockIdx.x;
  float x[count][width];
  const float squares = read_row<activation>(args, row, x);
  const float total = block_reduce(squares, sums, Add{});
  const float scale = 1.0F / sqrtf(total / float(args.columns) + args.epsilon);
  if (threadIdx.x == 0) {
    args.inverse_rms[row] = scale;
  }
#pragma unroll
  for (int i = 0; i < count; ++i) {
    const int column = Slice<T, width, count>::column(i);
    if (column < args.columns) {
      float w[width];
      load_weight(args.weight, column, w);
#pragma unroll
      for (int j = 0; j < width; ++j) {
        x[i][j] *= scale * w[j];
      }
      store(args.output.at(row, column), x[i]);
    }
  }
}
template <typename T, Activation activation>
void launch_forward(Stream& stream, const ForwardArguments<T>& args, bool vectorized,
                    const char* what) {
  if (args.rows == 0) {
    return;
  }
  with_row<forward_vectors>(args.columns, vectorized, warp_size, what,
                            [&](auto width, auto count, unsigned threads) {
                              forward_kernel<T, width(), count(), activation>
                                  <<<unsigned(args.rows), threads, 0, native(stream)>>>(args);
                              check_launch(what);
                            });
}
}  // namespace

void rms_norm_forward(Stream& stream, const RmsNormForward& args) {
  with_element(args.input.dtype(), "rms_norm_forward", [&](auto element) {
    using T = decltype(element);
    const ForwardArguments<T> kernel{
        rows_of<T>(args.input),  elements_of<T>(args.weight),          float(args.epsilon),
        rows_of<T>(args.output), elements_of<float>(args.inverse_rms), args.input.dim(0),
        int(args.input.dim(1))};
    launch_forward<T, Activation::none>(
        stream, kernel, are_aligned(args.input, args.weight, args.output), "rms_norm_forward");
  });
}

void swish_rms_norm_forward(Stream& stream, const SwishRmsNormForward& args) {
  with_element(args.input.dtype(), "swish_rms_norm_forward", [&](auto element) {
    using T = decltype(element);
    const ForwardArguments<T> kernel{
        rows_of<T>(args.input),  elements_of<T>(args.weight),          float(args.epsilon),
        rows_of<T>(args.output), elements_of<float>(args.inverse_rms), args.input.dim(0),
        int(args.input.dim(1))};
    launch_forward<T, Activation::swish>(stream, kernel,
                                         are_aligned(args.input, args.weight, args.output),
                                         "swish_rms_norm_forward");
  });
}
}  // namespace gsa::kernels::cuda
