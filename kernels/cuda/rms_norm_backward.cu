// RMS normalization backward, with the residual's gradient or the swish before it; writes the
// norm's output once more where it is asked for.
//
// The rows are shared by `norm_blocks` blocks that all run at once; block b takes the rows b, b +
// blocks, ... A row's operands come through shared memory: each thread copies its own part of the
// next `norm_stages` rows ahead of their use, asynchronously and past the registers, so that the
// bytes on their way do not depend on how many registers are free, and waits for its own copies
// alone. One barrier a row, for its sum. The weight's gradient of a block's rows stays in
// registers, goes to the workspace at the end, and a second kernel adds these partial sums in the
// order of the blocks. At 2048 columns in bf16: 128 threads a block, 4 blocks a multiprocessor, 48
// KiB of shared memory a block, 192 KiB on their way a multiprocessor. Memory that is not aligned
// is read element by element when its row's turn comes.
//
// Bytes a bf16 element: 6, with a residual's gradient 8, with the output 2 more. A dozen operations
// (plus an exponential and a division with swish) an element: the memory's time is the floor.
#include <cuda_pipeline.h>

#include "kernels/backends.h"
#include "kernels/cuda/rms_norm_rows.h"
#include "kernels/cuda/workspace.h"

namespace gsa::kernels::cuda {
namespace {

// Vectors a thread takes of a row of more than `one_vector` vectors: as few as the threads of a
// block allow. What a row costs beside its elements is shared by twice as many of them.
constexpr int backward_vectors = norm_max_columns / norm_max_threads / vector_width;
constexpr int one_vector = 128;
// Blocks of norm_max_threads that a multiprocessor holds: 64 registers a thread where that is
// enough.
constexpr int resident_blocks(int elements) {
  return elements > vector_width ? 1 : 2;
}
constexpr int sum_buffers = 2;  // the next row's sums are written while slow warps read the last
// Rows on their way while one is worked on.
template <typename T>
constexpr int norm_stages = sizeof(T) == sizeof(bfloat16) ? 4 : 2;

// Arguments of the backward kernel; all but input, grad_output and grad_input may be absent.
template <typename T>
struct BackwardArguments {
  Rows<const T> input;
  const T* weight;
  const float* inverse_rms;
  Rows<const T> grad_output;
  Rows<const T> grad_residual;
  Rows<T> grad_input;
  Rows<T> output;
  float* partial;  // [blocks, columns]
  int64_t rows;
  int columns;
  float inverse_columns;  // 1 / columns

  int operands() const { return grad_residual ? 3 : 2; }
};

// What a thread has read of a row.
template <typename T, int width, int count>
struct OperandSlices {
  Slice<T, width, count> input;
  Slice<T, width, count> grad_output;
  Slice<T, width, count> grad_residual;
};

// A thread's part of the rows to come, in shared memory: [stage][operand][vector][thread]. Nobody
// else reads it.
template <typename T, int width, int count>
class RowsAhead {
 public:
  using Part = Vector<T, width>;
  static constexpr bool staged = width == vector_width;

  static size_t bytes(int operands, unsigned threads) {
    return staged ? size_t(norm_stages<T> * operands * count) * threads * sizeof(Part) : 0;
  }

  __device__ RowsAhead(const BackwardArguments<T>& args, std::byte* shared)
      : args_(args), parts_(reinterpret_cast<Part*>(shared)) {}

  // Begins to copy row `row` to the stage, if there is such a row.
  __device__ void request(int stage, int64_t row) const {
    if constexpr (staged) {
      if (row < args_.rows) {
        copy(stage, 0, args_.input, row);
        copy(stage, 1, args_.grad_output, row);
        if (args_.grad_residual) {
          copy(stage, 2, args_.grad_residual, row);
        }
      }
      __pipeline_commit();
    }
  }

  // The row requested longest ago.
  __device__ void receive(int stage, int64_t row, OperandSlices<T, width, count>& slices) const {
    if constexpr (staged) {
      __pipeline_wait_prior(norm_stages<T> - 1);
      read(stage, 0, slices.input);
      read(stage, 1, slices.grad_output);
      if (args_.grad_residual) {
        read(stage, 2, slices.grad_residual);
      }
    } else {
      slices.input.load(args_.input, row, args_.columns);
      slices.grad_output.load(args_.grad_output, row, args_.columns);
      if (args_.grad_residual) {
        slices.grad_residual.load(args_.grad_residual, row, args_.columns);
      }
    }
  }

 private:
  __device__ Part* at(int stage, int operand, int i) const {
    const int operands = args_.grad_residual ? 3 : 2;
    return parts_ + ((stage * operands + operand) * count + i) * int(blockDim.x) + threadIdx.x;
  }

  __device__ void copy(int stage, int operand, const Rows<const T>& source, int64_t row) const {
#pragma unroll
    for (int i = 0; i < count; ++i) {
      const int column = Slice<T, width, count>::column(i);
      if (column < args_.columns) {
        auto* to = reinterpret_cast<std::byte*>(at(stage, operand, i));
        const auto* from = reinterpret_cast<const std::byte*>(source.at(row, column));
#pragma unroll
        for (size_t byte = 0; byte < sizeof(Part); byte += access_bytes) {
          __pipeline_memcpy_async(to + byte, from + byte, access_bytes);
        }
      }
    }
  }

  __device__ void read(int stage, int operand, Slice<T, width, count>& slice) const {
#pragma unroll
    for (int i = 0; i < count; ++i) {
      slice.vectors[i] = *at(stage, operand, i);
    }
  }

  const BackwardArguments<T>& args_;
  Part* parts_;
};

// What a thread computes of a row before its sum is known.
template <int width, int count>
struct WeighedRow {
  float g[count][width];         // grad_output, times the weight
  float sigmoids[count][width];  // with swish: exponentials are what is scarce here
};

// A thread's columns, the same for all rows of its block.
template <typename T, int width, int count>
struct Columns {
  bool inside[count];
  float weight[count][width];  // absent weights are ones
  float weight_gradient[count][width] = {};

  __device__ explicit Columns(const BackwardArguments<T>& args) {
#pragma unroll
    for (int i = 0; i < count; ++i) {
      const int column = Slice<T, width, count>::column(i);
      inside[i] = column < args.columns;
      if (inside[i]) {
        load_weight(args.weight, column, weight[i]);
      }
    }
  }
};

// Adds to the weight's gradient and returns the sum of g x over this thread's columns.
template <Activation activation, typename T, int width, int count>
__device__ float weigh_row(const OperandSlices<T, width, count>& slices, float r,
                           Columns<T, width, count>& columns, WeighedRow<width, count>& row) {
  float products = 0;
#pragma unroll
  for (int i = 0; i < count; ++i) {
    if (!columns.inside[i]) {
      continue;
    }
    float x[width];
    slices.input.vectors[i].unpack(x);
    slices.grad_output.vectors[i].unpack(row.g[i]);
#pragma unroll
    for (int j = 0; j < width; ++j) {
      if constexpr (activation == Activation::swish) {
        row.sigmoids[i][j] = sigmoid(x[j]);
        x[j] *= row.sigmoids[i][j];
      }
      columns.weight_gradient[i][j] += row.g[i][j] * x[j] * r;
      row.g[i][j] *= columns.weight[i][j];
      products += row.g[i][j] * x[j];
    }
  }
  return products;
}

// Writes the norm's output of the row, as forward computes it.
template <Activation activation, typename T, int width, int count>
__device__ void write_output(const Rows<T>& output, int64_t at, float r,
                             const Slice<T, width, count>& input,
                             const Columns<T, width, count>& columns,
                             const WeighedRow<width, count>& row) {
#pragma unroll
  for (int i = 0; i < count; ++i) {
    if (!columns.inside[i]) {
      continue;
    }
    float x[width];
    input.vectors[i].unpack(x);
#pragma unroll
    for (int j = 0; j < width; ++j) {
      if constexpr (activation == Activation::swish) {
        x[j] *= row.sigmoids[i][j];
      }
      x[j] *= r * columns.weight[i][j];
    }
    store(output.at(at, Slice<T, width, count>::column(i)), x);
  }
}

// Writes the row's gradient, where `shrink` is r^2 mean(g x).
template <Activation activation, typename T, int width, int count>
__device__ void write_gradient(const BackwardArguments<T>& args, int64_t at, float r, float shrink,
                               const OperandSlices<T, width, count>& slices,
                               const Columns<T, width, count>& columns,
                               WeighedRow<width, count>& row) {
#pragma unroll
  for (int i = 0; i < count; ++i) {
    if (!columns.inside[i]) {
      continue;
    }
    float x[width];
    float added[width] = {};
    slices.input.vectors[i].unpack(x);
    if (args.grad_residual) {
      slices.grad_residual.vectors[i].unpack(added);
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
    store(args.grad_input.at(at, Slice<T, width, count>::column(i)), row.g[i]);
  }
}

// With r the inverse RMS, y = x r w and g = dy w: dx = r (g - x r^2 mean(g x)), dw = sum of dy x r.
template <typename T, int width, int count, Activation activation>
__global__ void __launch_bounds__(norm_max_threads, resident_blocks(width* count))
    backward_kernel(const BackwardArguments<T> args) {
  __shared__ float sums[sum_buffers][norm_max_warps];
  extern __shared__ __align__(access_bytes) std::byte staged_rows[];
  const RowsAhead<T, width, count> ahead(args, staged_rows);
  Columns<T, width, count> columns(args);
  const int64_t stride = gridDim.x;
#pragma unroll
  for (int stage = 0; stage < norm_stages<T>; ++stage) {
    ahead.request(stage, blockIdx.x + stage * stride);
  }
  float r = args.inverse_rms[blockIdx.x];
  int stage = 0;
  int buffer = 0;
  for (int64_t at = blockIdx.x; at < args.rows; at += stride) {
    OperandSlices<T, width, count> slices;
    WeighedRow<width, count> row;
    ahead.receive(stage, at, slices);
    const float products = weigh_row<activation>(slices, r, columns, row);
    ahead.request(stage, at + norm_stages<T> * stride);
    stage = stage + 1 == norm_stages<T> ? 0 : stage + 1;
    const float next_r = at + stride < args.rows ? args.inverse_rms[at + stride] : 0.0F;
    if (args.output) {
      write_output<activation>(args.output, at, r, slices.input, columns, row);
    }
    const float total = block_reduce(products, sums[buffer], Add{});
    buffer = 1 - buffer;
    write_gradient<activation>(args, at, r, r * r * total * args.inverse_columns, slices, columns,
                               row);
    r = next_r;
  }
  if (args.partial == nullptr) {
    return;
  }
#pragma unroll
  for (int i = 0; i < count; ++i) {
    if (columns.inside[i]) {
      store(args.partial + int64_t(blockIdx.x) * args.columns + Slice<T, width, count>::column(i),
            columns.weight_gradient[i]);
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
#pragma unroll 8
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

template <typename T, Activation activation>
void launch_backward(Stream& stream, const BackwardArguments<T>& args, float* grad_weight,
                     bool vectorized, const char* what) {
  if (args.rows == 0) {
    return;
  }
  const auto blocks = unsigned(norm_blocks(args.rows, args.columns));
  with_row<backward_vectors>(
      args.columns, vectorized, one_vector, what, [&](auto width, auto count, unsigned threads) {
        constexpr auto kernel = backward_kernel<T, width(), count(), activation>;
        const size_t shared = RowsAhead<T, width(), count()>::bytes(args.operands(), threads);
        check(
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared)),
            what);
        check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                   cudaSharedmemCarveoutMaxShared),
              what);
        kernel<<<blocks, threads, shared, native(stream)>>>(args);
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
        rows_of<T>(args.output),
        args.grad_weight ? reinterpret_cast<float*>(workspace) : nullptr,
        args.input.dim(0),
        int(args.input.dim(1)),
        1.0F / float(args.input.dim(1))};
    launch_backward<T, Activation::none>(
        stream, kernel, elements_of<float>(args.grad_weight),
        are_aligned(args.input, args.weight, args.grad_output, args.grad_residual, args.grad_input,
                    args.output),
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
        rows_of<T>(args.output),
        args.grad_weight ? reinterpret_cast<float*>(workspace) : nullptr,
        args.input.dim(0),
        int(args.input.dim(1)),
        1.0F / float(args.input.dim(1))};
    launch_backward<T, Activation::swish>(
        stream, kernel, elements_of<float>(args.grad_weight),
        are_aligned(args.input, args.weight, args.grad_output, args.grad_input, args.output),
        "swish_rms_norm_backward");
  });
}

}  // namespace gsa::kernels::cuda
