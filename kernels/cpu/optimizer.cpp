#include <algorithm>
#include <bit>
#include <limits>

#include "kernels/backends.h"
#include "kernels/cpu/math.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rounding.h"
#include "kernels/cpu/typed.h"
#include "kernels/master_split.h"

namespace gsa::kernels::cpu {
namespace {

// Elements that one partial sum of squares covers.
constexpr int64_t norm_block = 65536;

int64_t norm_blocks(int64_t count) {
  return (count + norm_block - 1) / norm_block;
}

template <typename T>
double sum_of_squares(const T* values, int64_t count) {
  return stable_sum<double>(count,
                            [&](int64_t i) { return double(values[i]) * double(values[i]); });
}

// What does not change from element to element, in the type of the buffers.
template <typename T>
struct AdamWFactors {
  explicit AdamWFactors(const AdamW& args, double gradient_scale)
      : scale(T(gradient_scale)),
        beta1(T(args.beta1)),
        beta2(T(args.beta2)),
        rest1(T(1 - args.beta1)),
        rest2(T(1 - args.beta2)),
        unbias1(T(1 / (1 - std::pow(args.beta1, double(args.step))))),
        unbias2(T(1 / (1 - std::pow(args.beta2, double(args.step))))),
        rate(T(args.learning_rate)),
        epsilon(T(args.epsilon)) {}

  T scale, beta1, beta2, rest1, rest2, unbias1, unbias2, rate, epsilon;
};

// Masters by themselves, with the model's copy if there is one.
template <typename T>
struct WholeMasters {
  T* masters;
  T* weights;  // or null

  T operator[](int64_t i) const { return masters[i]; }
  void set(int64_t i, T value) const {
    masters[i] = value;
    if (weights != nullptr) {
      weights[i] = value;
    }
  }
};

// Masters in two parts.
struct SplitMasters {
  bfloat16_t* weights;
  int16_t* remainders;

  float operator[](int64_t i) const {
    return std::bit_cast<float>(join_number({weights[i].bits, remainders[i]}));
  }
  void set(int64_t i, float value) const {
    const SplitNumber parts = split_number(std::bit_cast<uint32_t>(value));
    weights[i].bits = parts.weight;
    remainders[i] = parts.remainder;
  }
};

// The update of elements [begin, end), all with the same decay.
template <typename T, typename Masters>
void adamw_span(const AdamW& args, const AdamWFactors<T>& f, T decay, int64_t begin, int64_t end,
                const Masters& masters) {
  const T* gradient = args.gradient.as<T>();
  T* first = args.first_moment.as<T>();
  T* second = args.second_moment.as<T>();
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) {
    const T g = f.scale * gradient[i];
    const T m = f.beta1 * first[i] + f.rest1 * g;
    const T v = f.beta2 * second[i] + f.rest2 * g * g;
    const T step = m * f.unbias1 / (std::sqrt(v * f.unbias2) + f.epsilon);
    const T master = masters[i];
    first[i] = m;
    second[i] = v;
    masters.set(i, master - f.rate * (step + decay * master));
  }
}

// Cuts [0, count) where weight decay changes and calls body(begin, end, decays).
template <typename Body>
void for_each_decay_span(const AdamW& args, int64_t count, const Body& body) {
  int64_t begin = 0;
  while (begin < count) {
    int64_t end = count;
    bool decays = true;
    for (const AdamW::Range& range : args.without_decay) {
      if (range.begin <= begin && begin < range.end) {
        decays = false;
      }
      for (const int64_t border : {range.begin, range.end}) {
        if (border > begin && range.begin < range.end) {
          end = std::min(end, border);
        }
      }
    }
    body(begin, end, decays);
    begin = end;
  }
}

template <typename T, typename Masters>
void adamw_update(const AdamW& args, double scale, const Masters& masters) {
  const AdamWFactors<T> factors(args, scale);
  for_each_decay_span(args, args.gradient.count(), [&](int64_t first, int64_t last, bool decays) {
    const T decay = decays ? T(args.weight_decay) : T(0);
    parallel_for(last - first, 1, [&](int64_t begin, int64_t end) {
      adamw_span<T>(args, factors, decay, first + begin, first + end, masters);
    });
  });
}

SplitMasters parts_of(const Tensor& weights, const Tensor& remainder) {
  return {weights.as<bfloat16_t>(), remainder.as<int16_t>()};
}

template <typename From, typename To>
void convert_elements(const ConstTensor& input, const Tensor& output) {
  const From* from = input.as<From>();
  To* to = output.as<To>();
  parallel_for(input.count(), 1, [&](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) {
      to[i] = rounded_to<To>(from[i]);
    }
  });
}

// Calls body with a value of the stored type: float, double or bfloat16_t.
template <typename Body>
void with_stored_type(DType dtype, const char* operation, const Body& body) {
  if (dtype == DType::bfloat16) {
    body(bfloat16_t{});
  } else {
    with_real_type(dtype, operation, body);
  }
}

}  // namespace

void sum(Stream& /*stream*/, const Sum& args) {
  with_real_type(args.output.dtype(), "sum", [&](auto type) {
    using T = decltype(type);
    T* output = args.output.as<T>();
    parallel_for(args.output.count(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        T total = args.inputs[0].as<T>()[i];
        for (int input = 1; input < args.count; ++input) {
          total += args.inputs.at(static_cast<size_t>(input)).as<T>()[i];
        }
        output[i] = total;
      }
    });
  });
}

void squared_norm(Stream& /*stream*/, const SquaredNorm& args, std::byte* workspace) {
  with_real_type(args.input.dtype(), "squared_norm", [&](auto type) {
    using T = decltype(type);
    const T* input = args.input.as<T>();
    const int64_t count = args.input.count();
    const int64_t blocks = norm_blocks(count);
    auto* partial = reinterpret_cast<double*>(workspace);
    parallel_for(blocks, norm_block, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) {
        const int64_t start = block * norm_block;
        partial[block] = sum_of_squares(input + start, std::min(norm_block, count - start));
      }
    });
    double total = 0;
    for (int64_t block = 0; block < blocks; ++block) {
      total += partial[block];
    }
    *args.sum.as<double>() += total;
  });
}

size_t squared_norm_workspace(const SquaredNorm& args) {
  return static_cast<size_t>(norm_blocks(args.input.count())) * sizeof(double);
}

void clip_scale(Stream& /*stream*/, const ClipScale& args) {
  const double* totals = args.totals.as<double>();
  const double mean = args.nominal_tokens / totals[1];
  const double norm = mean * std::sqrt(*args.squared_norm.as<double>());
  double scale = mean;
  if (!std::isfinite(norm) || !std::isfinite(totals[0]) ||
      totals[0] / totals[1] > args.loss_limit) {
    scale = std::numeric_limits<double>::quiet_NaN();
  } else if (args.max_norm > 0 && norm > args.max_norm) {
    scale = mean * (args.max_norm / norm);
  }
  *args.norm.as<double>() = norm;
  *args.scale.as<double>() = scale;
}

void adamw(Stream& /*stream*/, const AdamW& args) {
  const double scale = *args.scale.as<double>();
  if (!std::isfinite(scale)) {
    return;
  }
  if (args.remainder) {
    adamw_update<float>(args, scale, parts_of(args.weights, args.remainder));
    return;
  }
  with_real_type(args.master.dtype(), "adamw", [&](auto type) {
    using T = decltype(type);
    adamw_update<T>(args, scale,
                    WholeMasters<T>{args.master.as<T>(), elements_of<T>(args.weights)});
  });
}

void split_master(Stream& /*stream*/, const SplitMaster& args) {
  const SplitMasters masters = parts_of(args.weights, args.remainder);
  const auto* values = args.master.as<float>();
  parallel_for(args.master.count(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      masters.set(i, values[i]);
    }
  });
}

void join_master(Stream& /*stream*/, const JoinMaster& args) {
  const auto* weights = args.weights.as<bfloat16_t>();
  const auto* remainders = args.remainder.as<int16_t>();
  auto* masters = args.master.as<float>();
  parallel_for(args.master.count(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      masters[i] = std::bit_cast<float>(join_number({weights[i].bits, remainders[i]}));
    }
  });
}

void convert(Stream& /*stream*/, const Convert& args) {
  with_stored_type(args.input.dtype(), "convert", [&](auto from) {
    with_stored_type(args.output.dtype(), "convert", [&](auto to) {
      convert_elements<decltype(from), decltype(to)>(args.input, args.output);
    });
  });
}

}  // namespace gsa::kernels::cpu
