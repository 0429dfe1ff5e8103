#include <algorithm>
#include <limits>

#include "kernels/backends.h"
#include "kernels/cpu/math.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/typed.h"

namespace gsa::kernels::cpu {
namespace {

// Throws std::out_of_range unless every label is ignored or a column of the logits.
void require_labels(const ConstTensor& labels, int64_t vocabulary) {
  const int32_t* ids = labels.as<int32_t>();
  for (int64_t n = 0; n < labels.dim(0); ++n) {
    if (ids[n] != ignored_label && (ids[n] < 0 || ids[n] >= vocabulary)) {
      throw std::out_of_range("label " + std::to_string(ids[n]) + " at position " +
                              std::to_string(n) + " is outside the vocabulary of " +
                              std::to_string(vocabulary) +
                              ": was the data made with another tokenizer?");
    }
  }
}

template <typename T>
T largest(const T* values, int64_t count) {
  T result = -std::numeric_limits<T>::infinity();
#pragma omp simd reduction(max : result)
  for (int64_t i = 0; i < count; ++i) {
    result = values[i] > result ? values[i] : result;
  }
  return result;
}

// The loss of one row; with `gradient_scale` the row becomes its gradient.
template <typename T>
T cross_entropy_row(T* logits, int64_t width, int32_t label, T gradient_scale) {
  const T top = largest(logits, width);
  const T label_logit = logits[label];
  if (gradient_scale == T(0)) {
    const double sum = stable_sum<T>(width, [&](int64_t w) { return fast_exp(logits[w] - top); });
    return T(std::log(sum) - (double(label_logit) - double(top)));
  }
  // The exponentials stay where the logits were, for the gradient.
  const double sum =
      stable_sum<T>(width, [&](int64_t w) { return logits[w] = fast_exp(logits[w] - top); });
  const T factor = T(double(gradient_scale) / sum);
#pragma omp simd
  for (int64_t w = 0; w < width; ++w) {
    logits[w] *= factor;
  }
  logits[label] -= gradient_scale;
  return T(std::log(sum) - (double(label_logit) - double(top)));
}

}  // namespace

void cross_entropy(Stream& /*stream*/, const CrossEntropy& args) {
  require_labels(args.labels, args.logits.dim(1));
  with_real_type(args.logits.dtype(), "cross_entropy", [&](auto type) {
    using T = decltype(type);
    const int32_t* labels = args.labels.as<int32_t>();
    const auto logits = rows_of<T>(args.logits);
    T* losses = args.losses.as<T>();
    const int64_t width = args.logits.dim(1);
    const T scale = T(args.gradient_scale);
    parallel_for(args.logits.dim(0), width, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        if (labels[n] != ignored_label) {
          losses[n] = cross_entropy_row(logits[n], width, labels[n], scale);
          continue;
        }
        losses[n] = 0;
        if (scale != T(0)) {
          std::fill_n(logits[n], width, T(0));
        }
      }
    });
  });
}

void sum_losses(Stream& /*stream*/, const SumLosses& args, std::byte* /*workspace*/) {
  with_real_type(args.losses.dtype(), "sum_losses", [&](auto type) {
    using T = decltype(type);
    const T* losses = args.losses.as<T>();
    const int32_t* labels = args.labels.as<int32_t>();
    double sum = 0;
    int64_t counted = 0;
    for (int64_t n = 0; n < args.losses.dim(0); ++n) {
      sum += double(losses[n]);
      counted += labels[n] != ignored_label ? 1 : 0;
    }
    double* totals = args.totals.as<double>();
    totals[0] += sum;
    totals[1] += double(counted);
  });
}

size_t sum_losses_workspace(const SumLosses& /*args*/) {
  return 0;
}

}  // namespace gsa::kernels::cpu
