// The kernel of gsa_decode_kept_step.h on the emulator, step after step: what it leaves is what
// steps that write their states leave, in whatever order its threads run.
#include <gtest/gtest.h>

#include <random>

#include "kernels/cuda/gsa_decode_kept_step.h"

namespace gsa::kernels::cuda {
namespace {

using gsa_decode_block::KeptArgs;
using gsa_decode_block::Layout;

struct Case {
  int sequences, query_heads, heads;
  int key_dim, value_dim, slots;
  int period, offset;
  int chunks;  // of the ring

  int columns() const { return query_heads * key_dim + heads * (key_dim + value_dim + slots); }
  // Elements of a kept token, and of all of them (KeptTokens::shape).
  int row() const { return (key_dim + value_dim + slots + 7) / 8 * 8; }
  int kept() const { return sequences * heads * (period - 1) * row(); }
  int units() const { return sequences * query_heads; }
};

constexpr float normalizer = 8;
constexpr float scale = 0.7F;
constexpr double float_tolerance = 2e-5;
constexpr double bfloat16_tolerance = 1e-2;  // of outputs alone: inputs are rounded for both

std::vector<float> random_numbers(size_t count, float range, std::mt19937& random) {
  std::uniform_real_distribution<float> values(-range, range);
  std::vector<float> numbers(count);
  std::generate(numbers.begin(), numbers.end(), [&] { return values(random); });
  return numbers;
}

double swish(double x) {
  return x / (1 + std::exp(-x));
}

// Steps as they are defined (kernels/decode.h), in float64.
class Definition {
 public:
  Definition(const Case& sizes, const std::vector<float>& keys, const std::vector<float>& values)
      : sizes_(sizes), keys_(keys.begin(), keys.end()), values_(values.begin(), values.end()) {}

  // The outputs [sequences, query heads * V] for `projected`.
  std::vector<double> step(const std::vector<float>& projected) {
    std::vector<double> outputs;
    for (int unit = 0; unit < sizes_.units(); ++unit) {
      step_unit(unit, projected.data() + unit / sizes_.query_heads * sizes_.columns(), outputs);
    }
    return outputs;
  }
  const std::vector<double>& keys() const { return keys_; }
  const std::vector<double>& values() const { return values_; }

 private:
  void step_unit(int unit, const float* row, std::vector<double>& outputs) {
    const auto [sequences, query_heads, heads, key_dim, value_dim, slots, period, offset, chunks] =
        sizes_;
    const int query_head = unit % query_heads;
    const int head = query_head / (query_heads / heads);
    const float* q = row + query_head * key_dim;
    const float* k = row + (query_heads + head) * key_dim;
    const float* v = row + (query_heads + heads) * key_dim + head * value_dim;
    const float* gate = row + (query_heads + heads) * key_dim + heads * value_dim + head * slots;
    double* key = keys_.data() + unit * key_dim * slots;
    double* value = values_.data() + unit * slots * value_dim;
    std::vector<double> p(size_t(slots), 0.0);
    std::vector<double> o(size_t(value_dim), 0.0);
    double total = 0;
    for (int m = 0; m < slots; ++m) {
      const double alpha = std::pow(1 / (1 + std::exp(-double(gate[m]))), 1.0 / normalizer);
      double u = 0;
      for (int d = 0; d < key_dim; ++d) {
        double& there = key[d * slots + m];
        there = alpha * there + (1 - alpha) * swish(k[d]);
        u += there * swish(q[d]);
      }
      for (int d = 0; d < value_dim; ++d) {
        double& there = value[m * value_dim + d];
        there = alpha * there + (1 - alpha) * swish(v[d]);
      }
      p[size_t(m)] = std::exp(scale * u);
      total += p[size_t(m)];
    }
    for (int d = 0; d < value_dim; ++d) {
      for (int m = 0; m < slots; ++m) {
        o[size_t(d)] += p[size_t(m)] / total * value[m * value_dim + d];
      }
      outputs.push_back(swish(o[size_t(d)]));
    }
  }

  Case sizes_;
  std::vector<double> keys_;
  std::vector<double> values_;
};

// The same by the kernel.
template <typename T>
class Kept {
 public:
  Kept(const Case& sizes, const std::vector<float>& keys, const std::vector<float>& values)
      : sizes_(sizes),
        keys_(keys),
        values_(values),
        rows_(size_t(sizes.kept()), missing()),
        output_(size_t(sizes.units() * sizes.value_dim)) {}

  bool writes() const { return (step_ + sizes_.offset) % sizes_.period == sizes_.period - 1; }

  // The kernel in front leaves `projected` some time.
  std::vector<float> step(const std::vector<float>& projected, uint32_t seed) {
    projected_.assign(projected.size(), missing());
    output_.assign(output_.size(), missing());
    const KeptArgs<T> args = arguments();
    emulated::run(
        {.clusters = sizes_.units(),
         .threads = gsa_decode_block::block_threads,
         .shared_bytes = size_t(args.layout.end),
         .cluster_blocks = 1,
         .previous =
             [&] {
               std::transform(projected.begin(), projected.end(), projected_.begin(),
                              from_float<T>);
             }},
        [&] { gsa_decode_block::kept_kernel(args); }, seed);
    ++step_;
    std::vector<float> outputs;
    for (const T x : output_) {
      outputs.push_back(to_float(x));
    }
    return outputs;
  }
  const std::vector<float>& keys() const { return keys_; }
  const std::vector<float>& values() const { return values_; }

 private:
  static T missing() { return from_float<T>(std::nanf("")); }

  KeptArgs<T> arguments() {
    const auto within = [&](int memory) {
      return Layout(memory, sizes_.row() * int(sizeof(T)), sizes_.period, sizes_.key_dim,
                    sizes_.slots);
    };
    return {.decode = {.projected = {projected_.data(), sizes_.columns()},
                       .query_heads = sizes_.query_heads,
                       .heads = sizes_.heads,
                       .key_dim = sizes_.key_dim,
                       .value_dim = sizes_.value_dim,
                       .slots = sizes_.slots,
                       .gate_factor = 1 / normalizer,
                       .scale = scale,
                       .key_state = keys_.data(),
                       .value_state = values_.data(),
                       .output = {output_.data(), sizes_.query_heads * sizes_.value_dim},
                       .cluster = 1},
            .row = sizes_.row(),
            .rows = rows_.data(),
            .step = &step_,
            .offset = sizes_.offset,
            .period = sizes_.period,
            .layout = within(within(0).ring + sizes_.chunks * gsa_decode_block::chunk_bytes)};
  }

  Case sizes_;
  std::vector<float> keys_;
  std::vector<float> values_;
  std::vector<T> rows_;
  std::vector<T> projected_;
  std::vector<T> output_;
  int32_t step_ = 0;
};

template <typename Numbers>
double relative_error(const Numbers& got, const std::vector<double>& expected) {
  double difference = 0;
  double norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    difference += (double(got[i]) - expected[i]) * (double(got[i]) - expected[i]);
    norm += expected[i] * expected[i];
  }
  return std::sqrt(difference / norm);
}

// More than two writings of the states, the last of them some steps ago.
template <typename T>
void expect_its_definition(const Case& sizes, double tolerance) {
  std::mt19937 random(5);
  const auto count = [&](int columns) { return size_t(sizes.units() * columns); };
  const auto keys = random_numbers(count(sizes.key_dim * sizes.slots), 0.2F, random);
  const auto values = random_numbers(count(sizes.slots * sizes.value_dim), 1, random);
  Definition definition(sizes, keys, values);
  Kept<T> kept(sizes, keys, values);
  for (int n = 0; n < 2 * sizes.period + 3; ++n) {
    SCOPED_TRACE(testing::Message() << "K " << sizes.key_dim << ", V " << sizes.value_dim
                                    << ", chunks " << sizes.chunks << ", step " << n);
    std::vector<float> projected =
        random_numbers(size_t(sizes.sequences * sizes.columns()), 3, random);
    for (float& x : projected) {
      x = to_float(from_float<T>(x));
    }
    const bool writes = kept.writes();
    const std::vector<float> before = kept.keys();
    const std::vector<double> expected = definition.step(projected);
    ASSERT_LE(relative_error(kept.step(projected, uint32_t(n)), expected), tolerance);
    if (writes) {
      ASSERT_LE(relative_error(kept.keys(), definition.keys()), float_tolerance);
      ASSERT_LE(relative_error(kept.values(), definition.values()), float_tolerance);
    } else {
      ASSERT_EQ(kept.keys(), before);
    }
  }
}

// Grouped heads, periods up to the longest; dimensions that fill warps and not, a chunk and
// several; rings of fewer chunks than a state has and of more.
TEST(EmulatedGsaDecodeKept, IsItsDefinition) {
  for (const Case& sizes :
       {Case{1, 2, 1, 16, 32, 20, 4, 1, 3}, Case{2, 2, 2, 24, 40, 16, 3, 0, 4},
        Case{1, 1, 1, 200, 96, 64, 8, 5, 3}, Case{1, 4, 2, 12, 4, 20, 2, 1, 5},
        Case{1, 1, 1, 35, 260, 68, 2, 0, 3}, Case{1, 1, 1, 5, 1024, 12, 3, 1, 3},
        Case{1, 1, 1, 1024, 8, 128, 2, 0, 3}}) {
    expect_its_definition<float>(sizes, float_tolerance);
  }
}

TEST(EmulatedGsaDecodeKept, InBfloat16IsItsDefinition) {
  expect_its_definition<bfloat16>({1, 2, 1, 40, 16, 36, 5, 2, 3}, bfloat16_tolerance);
}

}  // namespace
}  // namespace gsa::kernels::cuda
