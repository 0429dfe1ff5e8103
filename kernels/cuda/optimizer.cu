// The optimizer's arithmetic on flat buffers: global norm, clipping, AdamW, conversion.
//
// Everything is bound by memory: the norm reads 4 bytes a parameter, AdamW reads 16 (gradient, both
// moments, master) and writes 12, where the model computes in bfloat16; in float32 the weights' 4
// more.
#include <algorithm>
#include <cmath>

#include "kernels/backends.h"
#include "kernels/cuda/map_rows.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/workspace.h"
#include "kernels/master_split.h"

namespace gsa::kernels::cuda {
namespace {

constexpr int norm_threads = 256;
constexpr int norm_warps = norm_threads / warp_size;
// The partial sums are added by one block, one a thread.
constexpr int total_threads = squared_norm_blocks;
constexpr int total_warps = total_threads / warp_size;
static_assert(total_threads % warp_size == 0 && total_threads <= 1024);

// All of a thread's loads are on their way before the first of them is added.
struct Addition {
  const float* inputs[Sum::max_inputs];
  float* output;
  int count;

  template <int width>
  __device__ void apply(int64_t /*row*/, int64_t element) const {
    float x[Sum::max_inputs][width];
#pragma unroll
    for (int i = 0; i < Sum::max_inputs; ++i) {
      if (i < count) {
        load(inputs[i] + element, x[i]);
      }
    }
#pragma unroll
    for (int i = 1; i < Sum::max_inputs; ++i) {
#pragma unroll
      for (int j = 0; i < count && j < width; ++j) {
        x[0][j] += x[i][j];
      }
    }
    store(output + element, x[0]);
  }
};

// Block b's share of the sum: vectors b * norm_threads + t, then in steps of the whole grid, whose
// size does not depend on the GPU. Squares are added in float64: no gradient is too large for it.
template <int width>
__global__ void __launch_bounds__(norm_threads)
    squared_norm_kernel(const float* input, int64_t count, double* partial) {
  __shared__ double sums[norm_warps];
  const int64_t first = int64_t{blockIdx.x} * norm_threads + threadIdx.x;
  const int64_t stride = int64_t{gridDim.x} * norm_threads;
  const int64_t vectors = count / width;
  double sum = 0;
#pragma unroll 2
  for (int64_t i = first; i < vectors; i += stride) {
    float x[width];
    load(input + i * width, x);
#pragma unroll
    for (int j = 0; j < width; ++j) {
      sum += double{x[j]} * double{x[j]};
    }
  }
  for (int64_t i = vectors * width + first; i < count; i += stride) {
    sum += double{input[i]} * double{input[i]};
  }
  sum = block_reduce(sum, sums, Add{});
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = sum;
  }
}

__global__ void __launch_bounds__(total_threads)
    add_squares_kernel(const double* partial, double* total) {
  __shared__ double sums[total_warps];
  const double sum = block_reduce(partial[threadIdx.x], sums, Add{});
  if (threadIdx.x == 0) {
    *total += sum;
  }
}

__global__ void clip_scale_kernel(const double* squared_norm, const double* totals,
                                  double nominal_tokens, double max_norm, double loss_limit,
                                  double* norm, double* scale) {
  const double mean = nominal_tokens / totals[1];
  const double length = mean * sqrt(*squared_norm);
  const bool too_long = max_norm > 0 && length > max_norm;
  const bool sound = isfinite(length) && isfinite(totals[0]) && totals[0] / totals[1] <= loss_limit;
  *norm = length;
  *scale = sound ? (too_long ? mean * (max_norm / length) : mean) : NAN;
}

// The parts of AdamW's arguments that do not depend on element types.
struct AdamWStep {
  const double* scale;
  float beta1;
  float beta2;
  float rest1;  // 1 - beta1
  float rest2;
  float epsilon;
  float rate;                 // the learning rate
  float inverse_correction1;  // 1 / (1 - beta1^t)
  float inverse_correction2;  // 1 / (1 - beta2^t)
  float weight_decay;
  AdamW::Range without_decay[AdamW::max_ranges];

  __device__ bool decays(int64_t element) const {
    bool decays = true;
#pragma unroll
    for (const AdamW::Range& range : without_decay) {
      decays = decays && !(element >= range.begin && element < range.end);
    }
    return decays;
  }
};

// Masters by themselves, with the model's copy if there is one.
struct WholeMasters {
  float* masters;
  float* weights;  // or absent

  template <int width>
  __device__ void read(int64_t element, float (&w)[width]) const {
    load(masters + element, w);
  }
  template <int width>
  __device__ void write(int64_t element, const float (&w)[width]) const {
    store(masters + element, w);
    if (weights != nullptr) {
      store(weights + element, w);
    }
  }
};

// Masters in two parts: bits of bfloat16 weights, and remainders.
struct SplitMasters {
  uint16_t* weights;
  int16_t* remainders;

  SplitMasters(const ConstTensor& weight, const ConstTensor& remainder)
      : weights(reinterpret_cast<uint16_t*>(const_cast<bfloat16*>(elements_of<bfloat16>(weight)))),
        remainders(const_cast<int16_t*>(elements_of<int16_t>(remainder))) {}

  template <int width>
  __device__ void read(int64_t element, float (&w)[width]) const {
    const auto weight = Vector<uint16_t, width>::load(weights + element);
    const auto remainder = Vector<int16_t, width>::load(remainders + element);
#pragma unroll
    for (int i = 0; i < width; ++i) {
      w[i] = __uint_as_float(join_number({weight.elements[i], remainder.elements[i]}));
    }
  }
  template <int width>
  __device__ void write(int64_t element, const float (&w)[width]) const {
    Vector<uint16_t, width> weight;
    Vector<int16_t, width> remainder;
#pragma unroll
    for (int i = 0; i < width; ++i) {
      const SplitNumber parts = split_number(__float_as_uint(w[i]));
      weight.elements[i] = parts.weight;
      remainder.elements[i] = parts.remainder;
    }
    weight.store(weights + element);
    remainder.store(remainders + element);
  }
};

template <typename Masters>
struct AdamWUpdate {
  AdamWStep step;
  const float* gradient;
  float* first_moment;
  float* second_moment;
  Masters masters;

  template <int width>
  __device__ void apply(int64_t /*row*/, int64_t element) const {
    const double scale = *step.scale;
    if (!isfinite(scale)) {
      return;
    }
    float g[width];
    float m[width];
    float v[width];
    float w[width];
    load(gradient + element, g);
    load(first_moment + element, m);
    load(second_moment + element, v);
    masters.read(element, w);
#pragma unroll
    for (int i = 0; i < width; ++i) {
      const float slope = float(scale) * g[i];
      m[i] = step.beta1 * m[i] + step.rest1 * slope;
      v[i] = step.beta2 * v[i] + step.rest2 * slope * slope;
      const float denominator = sqrtf(v[i] * step.inverse_correction2) + step.epsilon;
      const float decay = step.decays(element + i) ? step.weight_decay * w[i] : 0.0F;
      w[i] -= step.rate * (m[i] * step.inverse_correction1 / denominator + decay);
    }
    store(first_moment + element, m);
    store(second_moment + element, v);
    masters.write(element, w);
  }
};

struct Split {
  const float* masters;
  SplitMasters parts;

  template <int width>
  __device__ void apply(int64_t /*row*/, int64_t element) const {
    float w[width];
    load(masters + element, w);
    parts.write(element, w);
  }
};

struct Join {
  SplitMasters parts;
  float* masters;

  template <int width>
  __device__ void apply(int64_t /*row*/, int64_t element) const {
    float w[width];
    parts.read(element, w);
    store(masters + element, w);
  }
};

template <typename From, typename To>
struct Conversion {
  const From* input;
  To* output;

  template <int width>
  __device__ void apply(int64_t /*row*/, int64_t element) const {
    float x[width];
    load(input + element, x);
    store(output + element, x);
  }
};

AdamWStep step_of(const AdamW& args) {
  AdamWStep step{};
  step.scale = elements_of<double>(args.scale);
  step.beta1 = float(args.beta1);
  step.beta2 = float(args.beta2);
  step.rest1 = float(1 - args.beta1);
  step.rest2 = float(1 - args.beta2);
  step.epsilon = float(args.epsilon);
  step.rate = float(args.learning_rate);
  step.inverse_correction1 = float(1 / (1 - std::pow(args.beta1, double(args.step))));
  step.inverse_correction2 = float(1 / (1 - std::pow(args.beta2, double(args.step))));
  step.weight_decay = float(args.weight_decay);
  std::copy(args.without_decay.begin(), args.without_decay.end(), step.without_decay);
  return step;
}

}  // namespace

void sum(Stream& stream, const Sum& args) {
  Addition addition{.output = elements_of<float>(args.output), .count = args.count};
  bool aligned = are_aligned(args.output);
  for (int i = 0; i < args.count; ++i) {
    const ConstTensor& input = args.inputs.at(size_t(i));
    addition.inputs[i] = elements_of<float>(input);
    aligned = aligned && are_aligned(input);
  }
  map_rows<float_vector_width>(stream, 1, args.output.count(), aligned, addition, "sum");
}

void squared_norm(Stream& stream, const SquaredNorm& args, std::byte* workspace) {
  const auto* input = elements_of<float>(args.input);
  auto* partial = reinterpret_cast<double*>(workspace);
  with_width(are_aligned(args.input), [&](auto width) {
    squared_norm_kernel<width()><<<squared_norm_blocks, norm_threads, 0, native(stream)>>>(
        input, args.input.count(), partial);
    check_launch("squared_norm");
  });
  add_squares_kernel<<<1, total_threads, 0, native(stream)>>>(partial,
                                                              elements_of<double>(args.sum));
  check_launch("squared_norm");
}

void clip_scale(Stream& stream, const ClipScale& args) {
  clip_scale_kernel<<<1, 1, 0, native(stream)>>>(
      elements_of<double>(args.squared_norm), elements_of<double>(args.totals), args.nominal_tokens,
      args.max_norm, args.loss_limit, elements_of<double>(args.norm),
      elements_of<double>(args.scale));
  check_launch("clip_scale");
}

void adamw(Stream& stream, const AdamW& args) {
  const auto update = [&](const auto& masters) {
    const AdamWUpdate<std::decay_t<decltype(masters)>> operation{
        step_of(args), elements_of<float>(args.gradient), elements_of<float>(args.first_moment),
        elements_of<float>(args.second_moment), masters};
    map_rows<float_vector_width>(stream, 1, args.gradient.count(),
                                 are_aligned(args.gradient, args.master, args.first_moment,
                                             args.second_moment, args.weights, args.remainder),
                                 operation, "adamw");
  };
  if (args.remainder) {
    update(SplitMasters(args.weights, args.remainder));
  } else {
    update(WholeMasters{elements_of<float>(args.master), elements_of<float>(args.weights)});
  }
}

void split_master(Stream& stream, const SplitMaster& args) {
  const Split split{elements_of<float>(args.master), SplitMasters(args.weights, args.remainder)};
  map_rows<float_vector_width>(stream, 1, args.master.count(),
                               are_aligned(args.master, args.weights, args.remainder), split,
                               "split_master");
}

void join_master(Stream& stream, const JoinMaster& args) {
  const Join join{SplitMasters(args.weights, args.remainder), elements_of<float>(args.master)};
  map_rows<float_vector_width>(stream, 1, args.master.count(),
                               are_aligned(args.master, args.weights, args.remainder), join,
                               "join_master");
}

void convert(Stream& stream, const Convert& args) {
  with_element(args.input.dtype(), "convert", [&](auto from) {
    with_element(args.output.dtype(), "convert", [&](auto to) {
      const Conversion<decltype(from), decltype(to)> conversion{
          elements_of<decltype(from)>(args.input), elements_of<decltype(to)>(args.output)};
      // One row of all elements, which is how contiguous memory of any shape is aligned.
      const bool aligned = reinterpret_cast<uintptr_t>(args.input.data()) % access_bytes == 0 &&
                           reinterpret_cast<uintptr_t>(args.output.data()) % access_bytes == 0;
      map_rows(stream, 1, args.input.count(), aligned, conversion, "convert");
    });
  });
}

}  // namespace gsa::kernels::cuda
