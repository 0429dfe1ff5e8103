// A contiguous range of a row-major array as rectangles. For this folder only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace gsa {

// A box of an array: where it starts and how far it goes in each dimension. Its elements, row by
// row, are the elements [first, first + its size) of the flattened array.
struct Rectangle {
  std::vector<uint64_t> start;
  std::vector<uint64_t> count;
  int64_t first = 0;
  int64_t size = 0;
};

// Elements of an array; throws std::invalid_argument for shapes with no dimension, a dimension
// below one, or more elements than 2^62.
int64_t element_count(std::span<const int64_t> shape);

// The elements [begin, end) of the flattened array of this shape, in order. Of a matrix at most
// three: the rest of a row, whole rows, the start of a row.
std::vector<Rectangle> rectangles_of(std::span<const int64_t> shape, int64_t begin, int64_t end);

}  // namespace gsa
