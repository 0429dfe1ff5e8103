#include "trainer/checkpoint/rectangles.h"

#include <gtest/gtest.h>

#include <numeric>
#include <stdexcept>

namespace gsa {
namespace {

// Flat indices of a rectangle's elements, row by row.
std::vector<int64_t> elements_of(const Rectangle& rectangle, const std::vector<int64_t>& shape) {
  std::vector<int64_t> elements{0};
  for (size_t dim = 0; dim < shape.size(); ++dim) {
    std::vector<int64_t> next;
    for (const int64_t outer : elements) {
      for (uint64_t i = 0; i < rectangle.count[dim]; ++i) {
        next.push_back(outer * shape[dim] + static_cast<int64_t>(rectangle.start[dim] + i));
      }
    }
    elements = next;
  }
  return elements;
}

TEST(Rectangles, CoverEveryRangeOfEveryShapeInOrder) {
  const std::vector<std::vector<int64_t>> shapes{{7}, {1}, {3, 5}, {1, 4}, {4, 1}, {2, 3, 4}};
  for (const std::vector<int64_t>& shape : shapes) {
    const int64_t count = element_count(shape);
    const size_t most = 2 * shape.size() - 1;
    for (int64_t begin = 0; begin <= count; ++begin) {
      for (int64_t end = begin; end <= count; ++end) {
        const std::vector<Rectangle> parts = rectangles_of(shape, begin, end);
        EXPECT_LE(parts.size(), most);
        int64_t next = begin;
        for (const Rectangle& part : parts) {
          std::vector<int64_t> expected(static_cast<size_t>(part.size));
          std::iota(expected.begin(), expected.end(), next);
          EXPECT_EQ(part.first, next);
          EXPECT_EQ(elements_of(part, shape), expected);
          next += part.size;
        }
        EXPECT_EQ(next, end);
      }
    }
  }
}

TEST(Rectangles, RejectsWhatIsNotInsideAnArray) {
  EXPECT_THROW(rectangles_of(std::vector<int64_t>{3, 5}, 4, 16), std::invalid_argument);
  EXPECT_THROW(rectangles_of(std::vector<int64_t>{3, 5}, -1, 2), std::invalid_argument);
  EXPECT_THROW(element_count(std::vector<int64_t>{}), std::invalid_argument);
  EXPECT_THROW(element_count(std::vector<int64_t>{3, 0}), std::invalid_argument);
  EXPECT_THROW(element_count(std::vector<int64_t>{int64_t{1} << 40, int64_t{1} << 40}),
               std::invalid_argument);
}

}  // namespace
}  // namespace gsa
