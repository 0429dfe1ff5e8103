// The kernel of decode_linear_many.h on the emulator: what it leaves, and that it ends, in whatever
// order its warps run.
#include "kernels/cuda/decode_linear_many.h"

#include <gtest/gtest.h>

#include <bit>
#include <random>

namespace gsa::kernels::cuda {
namespace {

using decode_many::ManyProduct;
using decode_many::Partition;
using decode_many::SharedLayout;

constexpr int padding = 8;
constexpr float untouched = -77;

template <typename T>
struct Matrix {
  int64_t rows;
  int64_t columns;
  int64_t stride = columns + padding;
  std::vector<T> elements = std::vector<T>(size_t(rows * stride), from_float(untouched));

  static T from_float(float x) {
    if constexpr (std::is_same_v<T, float>) {
      return x;
    } else {
      return to_bfloat16(x);
    }
  }
  void fill(std::mt19937& random, float scale) {
    std::uniform_real_distribution<float> values(-scale, scale);
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t column = 0; column < columns; ++column) {
        *at(row, column) = from_float(values(random));
      }
    }
  }
  T* at(int64_t row, int64_t column) { return &elements[size_t(row * stride + column)]; }
  float get(int64_t row, int64_t column) {
    if constexpr (std::is_same_v<T, float>) {
      return *at(row, column);
    } else {
      return to_float(*at(row, column));
    }
  }
  CUtensorMap boxes(int64_t first_row, int64_t count, int box_rows, int box_panels = 1) {
    return {at(first_row, 0), count, columns, stride, box_rows, box_panels};
  }
};

struct Case {
  int64_t sequences;
  int64_t depth;
  int64_t outputs;
  int clusters;
  int slots;
};

// What a case does behind the product, and in front of it.
enum class Kind { plain, residual, float_output };
enum class Norm { none, ones, weights };

// Large enough to show.
constexpr float epsilon = 0.25;

template <int groups, int cluster, int panels>
class Product {
 public:
  Product(const Case& size, Kind kind, Norm norm, uint32_t seed)
      : size_(size),
        kind_(kind),
        norm_(norm),
        input_{size.sequences, size.depth},
        norm_weight_{1, size.depth},
        weight_{groups * size.outputs, size.depth},
        output_{size.sequences, size.outputs},
        float_output_{size.sequences, size.outputs} {
    std::mt19937 random(seed);
    fill_input(random);
    norm_weight_.fill(random, 2);
    weight_.fill(random, 2 / std::sqrt(float(size.depth)));
    if (kind == Kind::residual) {
      output_.fill(random, 1);
    }
    residual_ = output_;
  }

  // The residual is the output's memory. The input is there when the kernel in front has ended.
  void run(uint32_t seed) {
    const Partition partition = partition_of_case();
    ManyProduct product{};
    product.input = input_.boxes(0, size_.sequences, decode_many::most_rows);
    for (int group = 0; group < groups; ++group) {
      product.weights[group] = weight_.boxes(group * size_.outputs, size_.outputs,
                                             decode_many::tile_columns, partition.block_panels());
    }
    product.norm = norm_ != Norm::none;
    product.norm_weight = norm_ == Norm::weights ? norm_weight_.at(0, 0) : nullptr;
    product.epsilon = epsilon;
    if (kind_ == Kind::residual) {
      product.residual = {output_.at(0, 0), output_.stride};
    }
    if (kind_ == Kind::float_output) {
      product.float_output = {float_output_.at(0, 0), float_output_.stride};
    } else {
      product.output = {output_.at(0, 0), output_.stride};
    }
    product.rows = int(size_.sequences);
    product.outputs = int(size_.outputs);
    product.partition = partition;
    emulated::run(
        {.clusters = partition.clusters,
         .threads = decode_many::Shares<cluster>::threads,
         .shared_bytes = size_t(SharedLayout(partition).bytes),
         .cluster_blocks = cluster,
         .previous = [&] { input_.elements = before_.elements; }},
        [&] { decode_many::many_kernel<groups, cluster, panels>(product); }, seed);
  }

  void expect_the_definition() {
    for (int64_t n = 0; n < size_.sequences; ++n) {
      const double scale = inverse_rms(n);
      for (int64_t i = 0; i < size_.outputs; ++i) {
        double y = scale * sum(n, i);
        if (groups == 2) {
          y = y / (1 + std::exp(-y)) * scale * sum(n, size_.outputs + i);
        }
        y += kind_ == Kind::residual ? residual_.get(n, i) : 0;
        // Bfloat16 keeps eight bits; float32 sums of a few hundred numbers are far better.
        const bool is_float = kind_ == Kind::float_output;
        const double tolerance = is_float ? 1e-5 : 5e-3;
        const double is = is_float ? float_output_.get(n, i) : output_.get(n, i);
        ASSERT_NEAR(is, y, tolerance * (1 + std::abs(y))) << n << ", " << i;
      }
      for (int i = 0; i < padding; ++i) {
        ASSERT_EQ(output_.get(n, size_.outputs + i), untouched);
        ASSERT_EQ(float_output_.get(n, size_.outputs + i), untouched);
      }
    }
  }

  const std::vector<float>& float_results() const { return float_output_.elements; }

 private:
  // Sequences of different lengths.
  void fill_input(std::mt19937& random) {
    before_.fill(random, 1);
    for (int64_t n = 0; n < size_.sequences; ++n) {
      for (int64_t d = 0; d < size_.depth; ++d) {
        *before_.at(n, d) = to_bfloat16(before_.get(n, d) * float(1 + n % 3));
      }
    }
  }
  Partition partition_of_case() const {
    constexpr int unit_outputs = decode_many::unit_rows / groups;
    return {.cluster_bits = std::countr_zero(unsigned(cluster)),
            .clusters = size_.clusters,
            .units = int((size_.outputs + unit_outputs - 1) / unit_outputs),
            .panels = int(size_.depth / panel_columns),
            .slots = size_.slots,
            .ahead = size_.slots > 3 ? 1 : 0,
            .under_way = 2};
  }
  double sum(int64_t n, int64_t row) {
    double sum = 0;
    for (int64_t d = 0; d < size_.depth; ++d) {
      sum += double(multiplied(n, d)) * double(weight_.get(row, d));
    }
    return sum;
  }
  float multiplied(int64_t n, int64_t d) {
    const float x = input_.get(n, d);
    return norm_ == Norm::weights ? to_float(to_bfloat16(x * norm_weight_.get(0, d))) : x;
  }
  double inverse_rms(int64_t n) {
    double squares = 0;
    for (int64_t d = 0; d < size_.depth; ++d) {
      squares += double(input_.get(n, d)) * double(input_.get(n, d));
    }
    return norm_ == Norm::none ? 1 : 1 / std::sqrt(squares / double(size_.depth) + epsilon);
  }

  Case size_;
  Kind kind_;
  Norm norm_;
  Matrix<bfloat16> input_;
  Matrix<bfloat16> before_ = input_;
  Matrix<bfloat16> norm_weight_;
  Matrix<bfloat16> weight_;
  Matrix<bfloat16> output_;
  Matrix<bfloat16> residual_ = output_;
  Matrix<float> float_output_;
};

template <int groups, int cluster, int panels>
void expect_its_definition(const Case& size, Kind kind, uint32_t orders, Norm norm = Norm::none) {
  for (uint32_t seed = 0; seed < orders; ++seed) {
    SCOPED_TRACE(testing::Message() << size.sequences << " sequences, " << size.depth << " to "
                                    << size.outputs << ", clusters " << size.clusters << " of "
                                    << cluster << ", norm " << int(norm) << ", order " << seed);
    Product<groups, cluster, panels> test(size, kind, norm, seed);
    test.run(seed);
    test.expect_the_definition();
  }
}

// Parts of the depth of unequal lengths, and shorter than the kernel's; rings shorter and longer
// than what is copied; more units than buffers of sums, the last one with few outputs; clusters
// without units, blocks and warps without sequences.
TEST(EmulatedManyProduct, IsItsDefinitionInAnyOrder) {
  constexpr uint32_t orders = 4;
  expect_its_definition<1, 4, 2>({9, 512, 24, 2, 3}, Kind::plain, orders);
  expect_its_definition<1, 4, 2>({16, 448, 310, 2, 2}, Kind::residual, orders);
  expect_its_definition<1, 4, 3>({17, 320, 230, 1, 4}, Kind::plain, orders);
  expect_its_definition<1, 8, 2>({9, 576, 300, 1, 3}, Kind::plain, orders);
  for (const Kind kind : {Kind::plain, Kind::residual, Kind::float_output}) {
    expect_its_definition<1, 4, 2>({33, 384, 70, 1, 5}, kind, orders);
    expect_its_definition<1, 4, 1>({64, 256, 300, 2, 4}, kind, orders);
    expect_its_definition<1, 8, 2>({64, 704, 70, 1, 4}, kind, orders);
    expect_its_definition<1, 8, 1>({40, 512, 230, 1, 8}, kind, orders);
  }
}

TEST(EmulatedManyProduct, WithSwigluIsItsDefinitionInAnyOrder) {
  constexpr uint32_t orders = 4;
  expect_its_definition<2, 4, 1>({9, 256, 24, 1, 3}, Kind::plain, orders);
  expect_its_definition<2, 4, 2>({33, 320, 150, 2, 3}, Kind::float_output, orders);
  expect_its_definition<2, 4, 2>({64, 512, 100, 1, 4}, Kind::plain, orders);
  expect_its_definition<2, 8, 2>({20, 576, 90, 1, 3}, Kind::plain, orders);
}

// The same, where the sums of squares have a way of their own.
TEST(EmulatedManyProduct, WithNormIsItsDefinitionInAnyOrder) {
  constexpr uint32_t orders = 3;
  for (const Norm norm : {Norm::ones, Norm::weights}) {
    expect_its_definition<1, 4, 2>({9, 512, 24, 2, 3}, Kind::plain, orders, norm);
    expect_its_definition<1, 4, 3>({17, 320, 230, 1, 4}, Kind::float_output, orders, norm);
    expect_its_definition<1, 4, 2>({50, 448, 310, 2, 2}, Kind::residual, orders, norm);
    expect_its_definition<1, 4, 1>({64, 256, 300, 2, 4}, Kind::float_output, orders, norm);
    expect_its_definition<1, 8, 2>({9, 576, 300, 1, 3}, Kind::float_output, orders, norm);
    expect_its_definition<1, 8, 2>({64, 704, 70, 1, 4}, Kind::residual, orders, norm);
    expect_its_definition<1, 8, 1>({40, 512, 30, 2, 8}, Kind::plain, orders, norm);
  }
}

TEST(EmulatedManyProduct, WithNormAndSwigluIsItsDefinitionInAnyOrder) {
  constexpr uint32_t orders = 3;
  for (const Norm norm : {Norm::ones, Norm::weights}) {
    expect_its_definition<2, 4, 2>({33, 320, 150, 2, 3}, Kind::float_output, orders, norm);
    expect_its_definition<2, 4, 1>({64, 256, 100, 1, 4}, Kind::plain, orders, norm);
    expect_its_definition<2, 8, 2>({20, 576, 90, 1, 3}, Kind::float_output, orders, norm);
  }
}

template <int cluster, int panels>
void expect_the_same_bits(const Case& size, Norm norm) {
  Product<1, cluster, panels> first(size, Kind::float_output, norm, 0);
  first.run(0);
  for (uint32_t order = 1; order < 3; ++order) {
    Product<1, cluster, panels> again(size, Kind::float_output, norm, 0);
    again.run(order);
    EXPECT_EQ(first.float_results(), again.float_results());
  }
}

TEST(EmulatedManyProduct, HasTheSameBitsInAnyOrder) {
  expect_the_same_bits<4, 1>({20, 256, 200, 2, 3}, Norm::none);
  expect_the_same_bits<4, 2>({20, 320, 100, 2, 3}, Norm::weights);
  expect_the_same_bits<8, 2>({20, 576, 100, 1, 3}, Norm::ones);
}

}  // namespace
}  // namespace gsa::kernels::cuda
