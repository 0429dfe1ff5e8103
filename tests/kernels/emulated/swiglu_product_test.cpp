// The kernels of swiglu_product.h and swiglu_product_backward.h on the emulator: what they leave,
// and that they end, in whatever order their warps run.
#include "kernels/cuda/swiglu_product.h"

#include <gtest/gtest.h>

#include <random>

#include "kernels/cuda/swiglu_product_backward.h"

namespace gsa::kernels::cuda {
namespace {

using tile_product::SwigluGradientProduct;
using tile_product::SwigluProduct;
using tile_product::Tiles;

constexpr int padding = 8;
constexpr float untouched = -77;

struct Matrix {
  int64_t rows;
  int64_t columns;
  int64_t stride = columns + padding;
  std::vector<bfloat16> elements =
      std::vector<bfloat16>(size_t(rows * stride), to_bfloat16(untouched));

  void fill(std::mt19937& random, float scale) {
    std::uniform_real_distribution<float> values(-scale, scale);
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t column = 0; column < columns; ++column) {
        *at(row, column) = to_bfloat16(values(random));
      }
    }
  }
  bfloat16* at(int64_t row, int64_t column) { return &elements[size_t(row * stride + column)]; }
  float get(int64_t row, int64_t column) { return to_float(*at(row, column)); }
  Rows<bfloat16> from_column(int64_t column) { return {at(0, column), stride}; }
  CUtensorMap boxes(int64_t first_row, int64_t count, int box_rows) {
    return {at(first_row, 0), count, columns, stride, box_rows};
  }
  CUtensorMap boxes_of_columns(int64_t begin, int64_t count, int box_rows) {
    return {at(0, begin), rows, count, stride, box_rows};
  }
};

struct Size {
  int64_t tokens, hidden, intermediate;
};

// Bfloat16 keeps eight bits: the relative error of one rounding, and a little more.
constexpr double tolerance = 5e-3;

template <typename Product>
void run_tiles(const Product& product, int clusters, uint32_t seed) {
  *product.tiles.taken = 0;
  emulated::run(
      {.clusters = std::min(clusters, product.tiles.count()),
       .threads = tile_product::threads,
       .shared_bytes = tile_product::shared_bytes<Product>},
      [&] { tile_product::tile_kernel(product); }, seed);
}

class Forward {
 public:
  Forward(const Size& size, uint32_t seed)
      : size_(size),
        input_{size.tokens, size.hidden},
        weight_{2 * size.intermediate, size.hidden},
        gate_up_{size.tokens, 2 * size.intermediate},
        output_{size.tokens, size.intermediate} {
    std::mt19937 random(seed);
    input_.fill(random, 1);
    weight_.fill(random, 1 / std::sqrt(float(size.hidden)));
  }

  void run(int clusters, uint32_t seed) {
    const SwigluProduct product{
        .left = input_.boxes(0, size_.tokens, tile_product::tile_rows),
        .gate_weight = weight_.boxes(0, size_.intermediate, tile_product::half_columns),
        .up_weight =
            weight_.boxes(size_.intermediate, size_.intermediate, tile_product::half_columns),
        .gate = gate_up_.from_column(0),
        .up = gate_up_.from_column(size_.intermediate),
        .output = output_.from_column(0),
        .tokens = size_.tokens,
        .columns = int(size_.intermediate),
        .tiles = Tiles::of(size_.tokens, 2 * size_.intermediate, size_.hidden,
                           reinterpret_cast<std::byte*>(&taken_))};
    run_tiles(product, clusters, seed);
  }

  void expect_the_definition() {
    for (int64_t n = 0; n < size_.tokens; ++n) {
      for (int64_t f = 0; f < 2 * size_.intermediate; ++f) {
        double sum = 0;
        for (int64_t d = 0; d < size_.hidden; ++d) {
          sum += double(input_.get(n, d)) * double(weight_.get(f, d));
        }
        ASSERT_NEAR(gate_up_.get(n, f), sum, tolerance * (1 + std::abs(sum))) << n << ", " << f;
      }
      for (int64_t f = 0; f < size_.intermediate; ++f) {
        const double gate = gate_up_.get(n, f);
        const double y = gate / (1 + std::exp(-gate)) * gate_up_.get(n, f + size_.intermediate);
        ASSERT_NEAR(output_.get(n, f), y, tolerance * (1 + std::abs(y))) << n << ", " << f;
      }
      for (int i = 0; i < padding; ++i) {
        ASSERT_EQ(gate_up_.get(n, gate_up_.columns + i), untouched);
        ASSERT_EQ(output_.get(n, output_.columns + i), untouched);
      }
    }
  }

 private:
  Size size_;
  Matrix input_;
  Matrix weight_;
  Matrix gate_up_;
  Matrix output_;
  int taken_ = 0;
};

class Backward {
 public:
  Backward(const Size& size, uint32_t seed)
      : size_(size),
        grad_product_{size.tokens, size.hidden},
        weight_{size.hidden, size.intermediate},
        gate_up_{size.tokens, 2 * size.intermediate},
        before_{size.tokens, 2 * size.intermediate},
        output_{size.tokens, size.intermediate} {
    std::mt19937 random(seed);
    grad_product_.fill(random, 1);
    weight_.fill(random, 1 / std::sqrt(float(size.hidden)));
    gate_up_.fill(random, 4);
    before_ = gate_up_;
  }

  // Gradients over gate and up.
  void run(int clusters, uint32_t seed) {
    const int64_t columns = size_.intermediate;
    const SwigluGradientProduct product{
        .left = grad_product_.boxes(0, size_.tokens, tile_product::tile_rows),
        .weight = weight_.boxes(0, size_.hidden, panel_columns),
        .gate = gate_up_.boxes_of_columns(0, columns, SwigluGradientProduct::unit_rows),
        .up = gate_up_.boxes_of_columns(columns, columns, SwigluGradientProduct::unit_rows),
        .grad_gate = gate_up_.from_column(0),
        .grad_up = gate_up_.from_column(columns),
        .output = output_.from_column(0),
        .tokens = size_.tokens,
        .columns = int(columns),
        .tiles =
            Tiles::of(size_.tokens, columns, size_.hidden, reinterpret_cast<std::byte*>(&taken_))};
    run_tiles(product, clusters, seed);
  }

  void expect_the_definition() {
    // The gradient of the output is rounded once more on its way.
    const auto expect = [](float is, double should) {
      ASSERT_NEAR(is, should, 2 * tolerance * (1 + std::abs(should)));
    };
    for (int64_t n = 0; n < size_.tokens; ++n) {
      for (int64_t f = 0; f < size_.intermediate; ++f) {
        double grad = 0;
        for (int64_t d = 0; d < size_.hidden; ++d) {
          grad += double(grad_product_.get(n, d)) * double(weight_.get(d, f));
        }
        const double gate = before_.get(n, f);
        const double up = before_.get(n, f + size_.intermediate);
        const double sigmoid = 1 / (1 + std::exp(-gate));
        expect(gate_up_.get(n, f), grad * up * sigmoid * (1 + gate * (1 - sigmoid)));
        expect(gate_up_.get(n, f + size_.intermediate), grad * gate * sigmoid);
        expect(output_.get(n, f), gate * sigmoid * up);
      }
      for (int i = 0; i < padding; ++i) {
        ASSERT_EQ(gate_up_.get(n, gate_up_.columns + i), untouched);
        ASSERT_EQ(output_.get(n, output_.columns + i), untouched);
      }
    }
  }

 private:
  Size size_;
  Matrix grad_product_;
  Matrix weight_;
  Matrix gate_up_;
  Matrix before_;
  Matrix output_;
  int taken_ = 0;
};

template <typename Case>
void expect_its_definition_in_any_order() {
  constexpr int orders = 2;
  // A part of a tile; full tiles; a second block without rows; more tiles than clusters.
  for (const Size& size : {Size{5, 24, 16}, Size{256, 64, 128}, Size{100, 200, 72},
                           Size{300, 136, 264}, Size{530, 72, 400}}) {
    for (int clusters = 1; clusters <= 3; ++clusters) {
      for (uint32_t seed = 0; seed < orders; ++seed) {
        SCOPED_TRACE(testing::Message()
                     << size.tokens << " tokens, " << size.hidden << " to " << size.intermediate
                     << ", " << clusters << " clusters, order " << seed);
        Case test(size, seed);
        test.run(clusters, seed);
        test.expect_the_definition();
      }
    }
  }
}

TEST(EmulatedSwigluProduct, ForwardIsItsDefinitionInAnyOrder) {
  expect_its_definition_in_any_order<Forward>();
}

TEST(EmulatedSwigluProduct, BackwardIsItsDefinitionInAnyOrder) {
  expect_its_definition_in_any_order<Backward>();
}

}  // namespace
}  // namespace gsa::kernels::cuda
