// RMS normalization, with the residual before it or the swish before it, forward and backward.
//
// Forward: a block a row, which lies in its registers, `count` vectors a thread: small blocks, so
// that many rows are on their way from memory at once.
//
// Backward: the rows are shared by `norm_blocks` blocks that all run at once; block b takes the
// rows b, b + blocks, ... While one row is summed (one barrier a row) the next is on its way. The
// weight's gradient of a block's rows stays in registers, goes to the workspace at the end, and a
// second kernel adds these partial sums in the order of the blocks.
//
// Bytes a bf16 element: forward 4, with a residual 8; backward 6, with a residual's gradient 8. A
// dozen operations (plus an exponential and a division with swish) an element: the memory's time is
// the floor.
#include "kernels/backends.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/workspace.h"

namespace gsa::kernels::cuda {
namespace {

constexpr int max_threads = 512;
// Blocks of max_threads that a multiprocessor holds: 64 registers a thread where that is enough.
constexpr int resident_blocks(int elements) {
  return elements > vector_width ? 1 : 2;
}
constexpr int max_warps = max_threads / warp_size;
constexpr int max_columns = 8192;
constexpr int sum_buffers = 2;  // the next row's sums are written while slow warps read the last

// Vectors a thread takes of a long row: many loads in flight forward; backward, where the next row
// is on its way already, as few as max_threads allow.
constexpr int forward_vectors = 4;
constexpr int backward_vectors = max_columns / max_threads / vector_width;

enum class Activation : uint8_t { none, swish };

// Arguments of the forward kernel; `residual`, `sum` and `weight` may be absent.
template <typename T>
struct ForwardArguments {
  Rows<const T> input;
  Rows<const T> residual;
  const T* weight;
  float epsilon;
  Rows<T> sum;
  Rows<T> output;
  float* inverse_rms;
  int64_t rows;
  int columns;
};

// Arguments of the backward kernel; `grad_residual`, `weight` and `partial` may be absent.
template <typename T>
struct BackwardArguments {
  Rows<const T> input;
  const T* weight;
  const float* inverse_rms;
  Rows<const T> grad_output;
  Rows<const T> grad_residual;
  Rows<T> grad_input;
  float* partial;  // [blocks, columns]
  int64_t rows;
  int columns;
};

// A thread's share of a row, as it lies in memory.
template <typename T, int width, int count>
struct Slice {
  Vector<T, width> vectors[count];

  __device__ static int column(int i) { return (i * int(blockDim.x) + int(threadIdx.x)) * width; }

  __device__ void load(const Rows<const T>& source, int64_t row, int columns) {
#pragma unroll
    for (int i = 0; i < count; ++i) {
      if (column(i) < columns) {
        vectors[i] = Vector<T, width>::load(source.at(row, column(i)));
      }
    }
  }
};

// Absent weights are ones.
template <int width, typename T>
__device__ void load_weight(const T* weight, int column, float (&w)[width]) {
  if (weight != nullptr) {
    load(weight + column, w);
  } else {
#pragma unroll
    for (int j = 0; j < width; ++j) {
      w[j] = 1.0F;
    }
  }
}

// Reads this thread's part of a row, adds the residual and applies the activation; returns the sum
// of squares.
template <Activation activation, typename T, int width, int count>
__device__ float read_row(const ForwardArguments<T>& args, int64_t row, float (&x)[count][width]) {
  using Part = Slice<T, width, count>;
  Part input;
  Part residual;
  input.load(args.input, row, args.columns);
  if (args.residual) {
    residual.load(args.residual, row, args.columns);
  }
  float squares = 0;
#pragma unroll
  for (int i = 0; i < count; ++i) {
    const int column = Part::column(i);
    if (column >= args.columns) {
      continue;
    }
    input.vectors[i].unpack(x[i]);
    if (args.residual) {
      float added[width];
      residual.vectors[i].unpack(added);
#pragma unroll
      for (int j = 0; j < width; ++j) {
        // What is normalized is the sum as it is stored, which is what backward reads.
        x[i][j] = to_float(from_float<T>(x[i][j] + added[j]));
      }
      store(args.sum.at(row, column), x[i]);
    }
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
__global__ void __launch_bounds__(max_threads) forward_kernel(const ForwardArguments<T> args) {
  __shared__ float sums[max_warps];
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

// What a thread holds of a row on its way back.
template <typename T, int width, int count>
struct BackwardRow {
  Slice<T, width, count> input;
  Slice<T, width, count> grad_residual;
  float g[count][width];         // grad_output, later times the weight
  float sigmoids[count][width];  // with swish: exponentials are what is scarce here
};

// Adds to the weight's gradient and returns the sum of g x over this thread's columns.
template <Activation activation, typename T, int width, int count>
__device__ float weigh_row(const BackwardArguments<T>& args, float r,
                           BackwardRow<T, width, count>& row,
                           float (&weight_gradient)[count][width]) {
  float products = 0;
#pragma unroll
  for (int i = 0; i < count; ++i) {
    const int column = Slice<T, width, count>::column(i);
    if (column >= args.columns) {
      continue;
    }
    float x[width];
    float w[width];
    row.input.vectors[i].unpack(x);
    load_weight(args.weight, column, w);
#pragma unroll
    for (int j = 0; j < width; ++j) {
      if constexpr (activation == Activation::swish) {
        row.sigmoids[i][j] = sigmoid(x[j]);
        x[j] *= row.sigmoids[i][j];
      }
      weight_gradient[i][j] += row.g[i][j] * x[j] * r;
      row.g[i][j] *= w[j];
      products += row.g[i][j] * x[j];
    }
  }
  return products;
}

// Writes the row's gradient, where `shrink` is r^2 mean(g x).
template <Activation activation, typename T, int width, int count>
__device__ void write_row(const BackwardArguments<T>& args, int64_t at, float r, float shrink,
                          BackwardRow<T, width, count>& row) {
#pragma unroll
  for (int i = 0; i < count; ++i) {
    const int column = Slice<T, width, count>::column(i);
    if (column >= args.columns) {
      continue;
    }
    float x[width];
    float added[width] = {};
    row.input.vectors[i].unpack(x);
    if (args.grad_residual) {
      row.grad_residual.vectors[i].unpack(added);
    }
#pragma unroll
    for (int j = 0; j < width; ++j) {
      if constexpr (activation == Activation::swish) {
        const float s = row.sigmoids[i][j];
        row.g[i][j] = r * (row.g[i][j] - x[j] * s * shrink) * swish_slope(x[j], s);
      } else {
        row.g[i][j] = r * (row.g[i][j] - x[j] * shrink) + added[j];
      }
    }
    store(args.grad_input.at(at, column), row.g[i]);
  }
}

// With r the inverse RMS, y = x r w and g = dy w: dx = r (g - x r^2 mean(g x)), dw = sum of dy x r.
template <typename T, int width, int count, Activation activation>
__global__ void __launch_bounds__(max_threads, resident_blocks(width* count))
    backward_kernel(const BackwardArguments<T> args) {
  __shared__ float sums[sum_buffers][max_warps];
  Slice<T, width, count> input;
  Slice<T, width, count> grad_output;
  float weight_gradient[count][width] = {};
  int buffer = 0;
  input.load(args.input, blockIdx.x, args.columns);
  grad_output.load(args.grad_output, blockIdx.x, args.columns);
  for (int64_t at = blockIdx.x; at < args.rows; at += gridDim.x) {
    BackwardRow<T, width, count> row;
    row.input = input;
    if (args.grad_residual) {
      row.grad_residual.load(args.grad_residual, at, args.columns);
    }
#pragma unroll
    for (int i = 0; i < count; ++i) {
      grad_output.vectors[i].unpack(row.g[i]);
    }
    const float r = args.inverse_rms[at];
    const float products = weigh_row<activation>(args, r, row, weight_gradient);
    if (at + gridDim.x < args.rows) {
      input.load(args.input, at + gridDim.x, args.columns);
      grad_output.load(args.grad_output, at + gridDim.x, args.columns);
    }
    const float total = block_reduce(products, sums[buffer], Add{});
    buffer = 1 - buffer;
    write_row<activation>(args, at, r, r * r * total / float(args.columns), row);
  }
  if (args.partial == nullptr) {
    return;
  }
#pragma unroll
  for (int i = 0; i < count; ++i) {
    const int column = Slice<T, width, count>::column(i);
    if (column < args.columns) {
      store(args.partial + int64_t(blockIdx.x) * args.columns + column, weight_gradient[i]);
    }
  }
}

// total[column] += sum of partial[:, column]: a block does reduce_columns columns; its thread (x,
// y) adds the partial sums y, y + reduce_groups, ... of column x, and the first of a column adds
// the groups in order.
constexpr int reduce_columns = 32;
constexpr int reduce_groups = 32;

__global__ void __launch_bounds__(reduce_columns* reduce_groups)
    add_partials_kernel(const float* partial, int64_t blocks, int columns, float* total) {
  __shared__ float groups[reduce_groups][reduce_columns];
  const int column = int(blockIdx.x) * reduce_columns + int(threadIdx.x);
  float sum = 0;
  if (column < columns) {
#pragma unroll 4
    for (int64_t block = threadIdx.y; block < blocks; block += reduce_groups) {
      sum += partial[block * columns + column];
    }
  }
  groups[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y == 0 && column < columns) {
    for (int group = 1; group < reduce_groups; ++group) {
      sum += groups[group][threadIdx.x];
    }
    total[column] += sum;
  }
}

// Calls `launch` with the width, the vectors a thread and the threads for rows of `columns`: one
// vector a thread for rows of up to `single` vectors, `several` for longer ones.
template <int several, typename Launch>
void with_row(int64_t columns, bool vectorized, int64_t single, const char* what, Launch&& launch) {
  static_assert(several * max_threads * vector_width >= max_columns);
  if (columns > max_columns) {
    throw std::invalid_argument(std::string(what) + " on CUDA takes rows of at most " +
                                std::to_string(max_columns) + " (got " + std::to_string(columns) +
                                ")");
  }
  const auto threads = [](int64_t vectors, int count) {
    return blocks_of(vectors, warp_size * count) * warp_size;
  };
  const int64_t vectors = columns / vector_width;
  if (!vectorized || columns % vector_width != 0) {
    constexpr int count = max_columns / max_threads;
    launch(Width<1>{}, Width<count>{}, threads(columns, count));
  } else if (vectors <= single) {
    launch(Width<vector_width>{}, Width<1>{}, threads(vectors, 1));
  } else {
    launch(Width<vector_width>{}, Width<several>{}, threads(vectors, several));
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

template <typename T, Activation activation>
void launch_backward(Stream& stream, const BackwardArguments<T>& args, float* grad_weight,
                     bool vectorized, const char* what) {
  if (args.rows == 0) {
    return;
  }
  const auto blocks = unsigned(norm_blocks(args.rows, args.columns));
  with_row<backward_vectors>(args.columns, vectorized, max_threads, what,
                             [&](auto width, auto count, unsigned threads) {
                               backward_kernel<T, width(), count(), activation>
                                   <<<blocks, threads, 0, native(stream)>>>(args);
                               check_launch(what);
                             });
  if (grad_weight != nullptr) {
    const dim3 block(reduce_columns, reduce_groups);
    add_partials_kernel<<<blocks_of(args.columns, reduce_columns), block, 0, native(stream)>>>(
        args.partial, blocks, args.columns, grad_weight);
    check_launch(what);
  }
}

}  // namespace

void rms_norm_forward(Stream& stream, const RmsNormForward& args) {
  with_element(args.input.dtype(), "rms_norm_forward", [&](auto element) {
    using T = decltype(element);
    const ForwardArguments<T> kernel{rows_of<T>(args.input),
                                     rows_of<T>(args.residual),
                                     elements_of<T>(args.weight),
                                     float(args.epsilon),
                                     rows_of<T>(args.sum),
                                     rows_of<T>(args.output),
                                     elements_of<float>(args.inverse_rms),
                                     args.input.dim(0),
                                     int(args.input.dim(1))};
    launch_forward<T, Activation::none>(
        stream, kernel, are_aligned(args.input, args.residual, args.weight, args.sum, args.output),
        "rms_norm_forward");
  });
}

void swish_rms_norm_forward(Stream& stream, const SwishRmsNormForward& args) {
  with_element(args.input.dtype(), "swish_rms_norm_forward", [&](auto element) {
    using T = decltype(element);
    const ForwardArguments<T> kernel{rows_of<T>(args.input),
                                     {},
                                     elements_of<T>(args.weight),
                                     float(args.epsilon),
                                     {},
                                     rows_of<T>(args.output),
                                     elements_of<float>(args.inverse_rms),
                                     args.input.dim(0),
                                     int(args.input.dim(1))};
    launch_forward<T, Activation::swish>(stream, kernel,
                                         are_aligned(args.input, args.weight, args.output),
                                         "swish_rms_norm_forward");
  });
}

void rms_norm_backward(Stream& stream, const RmsNormBackward& args, std::byte* workspace) {
  with_element(args.input.dtype(), "rms_norm_backward", [&](auto element) {
    using T = decltype(element);
    const BackwardArguments<T> kernel{
        rows_of<T>(args.input),
        elements_of<T>(args.weight),
        elements_of<float>(args.inverse_rms),
        rows_of<T>(args.grad_output),
        rows_of<T>(args.grad_residual),
        rows_of<T>(args.grad_input),
        args.grad_weight ? reinterpret_cast<float*>(workspace) : nullptr,
        args.input.dim(0),
        int(args.input.dim(1))};
    launch_backward<T, Activation::none>(
        stream, kernel, elements_of<float>(args.grad_weight),
        are_aligned(args.input, args.weight, args.grad_output, args.grad_residual, args.grad_input),
        "rms_norm_backward");
  });
}

void swish_rms_norm_backward(Stream& stream, const SwishRmsNormBackward& args,
                             std::byte* workspace) {
  with_element(args.input.dtype(), "swish_rms_norm_backward", [&](auto element) {
    using T = decltype(element);
    const BackwardArguments<T> kernel{
        rows_of<T>(args.input),
        elements_of<T>(args.weight),
        elements_of<float>(args.inverse_rms),
        rows_of<T>(args.grad_output),
        {},
        rows_of<T>(args.grad_input),
        args.grad_weight ? reinterpret_cast<float*>(workspace) : nullptr,
        args.input.dim(0),
        int(args.input.dim(1))};
    launch_backward<T, Activation::swish>(
        stream, kernel, elements_of<float>(args.grad_weight),
        are_aligned(args.input, args.weight, args.grad_output, args.grad_input),
        "swish_rms_norm_backward");
  });
}

}  // namespace gsa::kernels::cuda
