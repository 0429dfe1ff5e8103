// Small dense products for the chunked form: one operand is a tile of at most 16 tokens, so that
// packing, which a library's product starts with, would cost as much as the product. Blocks of
// 4 x 2 vectors of the result stay in registers; the right operand's rows are contiguous, the left
// operand's elements lie anywhere at two strides (transposed or not).
#pragma once

#include "kernels/cpu/gsa_simd.h"

namespace gsa::kernels::cpu {

// Element (i, l) of a left operand lies at data[i * row + l * column].
template <typename T>
struct Left {
  const T* data;
  int64_t row;
  int64_t column;
};

// Element (l, j) of a right operand lies at data[l * row + j].
template <typename T>
struct Right {
  const T* data;
  int64_t row;
};

template <typename T>
struct Result {
  T* data;
  int64_t row;
};

// What the sums of a product start from: nothing,
struct FromZero {
  template <typename Value>
  Value at(int64_t /*i*/, int64_t /*j*/) const {
    return Value{};
  }
};

// a matrix (the result itself: accumulation),
template <typename T>
struct FromMatrix {
  const T* data;
  int64_t row;

  template <typename Value>
  Value at(int64_t i, int64_t j) const {
    return load<Value>(data + i * row + j);
  }
};

// a matrix whose column j is multiplied by decay[j],
template <typename T>
struct FromDecayedColumns {
  const T* data;
  int64_t row;
  const T* decay;

  template <typename Value>
  Value at(int64_t i, int64_t j) const {
    return load<Value>(data + i * row + j) * load<Value>(decay + j);
  }
};

// or a matrix whose row i is multiplied by decay[i].
template <typename T>
struct FromDecayedRows {
  const T* data;
  int64_t row;
  const T* decay;

  template <typename Value>
  Value at(int64_t i, int64_t j) const {
    return load<Value>(data + i * row + j) * decay[i];
  }
};

// The block of height x width values (vectors or scalars) of the result at (i, j).
template <int height, int width, typename Value, typename T, typename Start>
inline void product_block(int64_t i, int64_t j, int64_t depth, const Left<T>& a, const Right<T>& b,
                          const Start& start, const Result<T>& c) {
  // NOLINTNEXTLINE(bugprone-sizeof-expression): T is a number, Value one or a vector of them
  constexpr int64_t lanes = sizeof(Value) / sizeof(T);
  Value sums[height][width];
  for (int r = 0; r < height; ++r) {
    for (int w = 0; w < width; ++w) {
      sums[r][w] = start.template at<Value>(i + r, j + w * lanes);
    }
  }
  const T* left = a.data + i * a.row;
  const T* right = b.data + j;
  for (int64_t l = 0; l < depth; ++l) {
    Value row[width];
    for (int w = 0; w < width; ++w) {
      row[w] = load<Value>(right + w * lanes);
    }
    for (int r = 0; r < height; ++r) {
      const T factor = left[r * a.row];
      for (int w = 0; w < width; ++w) {
        sums[r][w] += factor * row[w];
      }
    }
    left += a.column;
    right += b.row;
  }
  for (int r = 0; r < height; ++r) {
    for (int w = 0; w < width; ++w) {
      std::memcpy(c.data + (i + r) * c.row + j + w * lanes, &sums[r][w], sizeof(Value));
    }
  }
}

template <int width, typename Value, typename T, typename Start>
inline void product_columns(int64_t rows, int64_t j, int64_t depth, const Left<T>& a,
                            const Right<T>& b, const Start& start, const Result<T>& c) {
  constexpr int height = 4;
  int64_t i = 0;
  for (; i + height <= rows; i += height) {
    product_block<height, width, Value>(i, j, depth, a, b, start, c);
  }
  for (; i < rows; ++i) {
    product_block<1, width, Value>(i, j, depth, a, b, start, c);
  }
}

// c[i, j] = start(i, j) + sum over l < depth of a(i, l) * b(l, j), for [rows, columns]. `start`
// may read c itself; the operands may not.
template <typename T, typename Start>
void product(int64_t rows, int64_t columns, int64_t depth, const Left<T>& a, const Right<T>& b,
             const Start& start, const Result<T>& c) {
  using Vector = typename VectorOf<T>::type;
  constexpr int64_t lanes = sizeof(Vector) / sizeof(T);
  int64_t j = 0;
  for (; j + 2 * lanes <= columns; j += 2 * lanes) {
    product_columns<2, Vector>(rows, j, depth, a, b, start, c);
  }
  for (; j + lanes <= columns; j += lanes) {
    product_columns<1, Vector>(rows, j, depth, a, b, start, c);
  }
  for (; j < columns; ++j) {
    product_columns<1, T>(rows, j, depth, a, b, start, c);
  }
}

// target[j, i] = source[i, j] for [rows, columns] of the source.
template <typename T>
void transpose(int64_t rows, int64_t columns, const T* source, int64_t source_row, T* target,
               int64_t target_row) {
  constexpr int64_t strip = 8;  // source rows read side by side: each cache line is used whole
  for (int64_t i0 = 0; i0 < rows; i0 += strip) {
    const int64_t i1 = i0 + strip < rows ? i0 + strip : rows;
    for (int64_t j = 0; j < columns; ++j) {
      for (int64_t i = i0; i < i1; ++i) {
        target[j * target_row + i] = source[i * source_row + j];
      }
    }
  }
}

}  // namespace gsa::kernels::cpu
