#include "trainer/checkpoint/rectangles.h"

#include <stdexcept>
#include <string>
#include <utility>

namespace gsa {
namespace {

// Appends the rectangles of [begin, end) of the sub-array below dimension `level`, whose indices in
// the dimensions above are `prefix` and whose first element is `offset` of the whole.
void append(std::span<const int64_t> shape, const std::vector<uint64_t>& prefix, int64_t offset,
            int64_t begin, int64_t end, std::vector<Rectangle>& result) {
  if (begin >= end) {
    return;
  }
  const size_t level = prefix.size();
  int64_t inner = 1;  // elements of one index of this dimension
  for (const int64_t extent : shape.subspan(level + 1)) {
    inner *= extent;
  }
  const auto below = [&](int64_t index, int64_t from, int64_t to) {
    std::vector<uint64_t> longer = prefix;
    longer.push_back(static_cast<uint64_t>(index));
    append(shape, longer, offset + index * inner, from, to, result);
  };
  const int64_t first_whole = (begin + inner - 1) / inner;
  const int64_t last_whole = end / inner;
  if (first_whole > last_whole) {  // inside one index
    below(last_whole, begin - last_whole * inner, end - last_whole * inner);
    return;
  }
  if (begin % inner != 0) {
    below(begin / inner, begin % inner, inner);
  }
  if (first_whole < last_whole) {
    Rectangle rectangle;
    rectangle.start = prefix;
    rectangle.start.push_back(static_cast<uint64_t>(first_whole));
    rectangle.count.assign(prefix.size(), 1);
    rectangle.count.push_back(static_cast<uint64_t>(last_whole - first_whole));
    for (const int64_t extent : shape.subspan(level + 1)) {
      rectangle.start.push_back(0);
      rectangle.count.push_back(static_cast<uint64_t>(extent));
    }
    rectangle.first = offset + first_whole * inner;
    rectangle.size = (last_whole - first_whole) * inner;
    result.push_back(std::move(rectangle));
  }
  if (end % inner != 0) {
    below(last_whole, 0, end % inner);
  }
}

}  // namespace

int64_t element_count(std::span<const int64_t> shape) {
  constexpr int64_t most = int64_t{1} << 62;
  if (shape.empty()) {
    throw std::invalid_argument("a parameter must have at least one dimension");
  }
  int64_t count = 1;
  for (const int64_t extent : shape) {
    if (extent < 1 || count > most / extent) {
      throw std::invalid_argument("a dimension of a parameter cannot be " + std::to_string(extent));
    }
    count *= extent;
  }
  return count;
}

std::vector<Rectangle> rectangles_of(std::span<const int64_t> shape, int64_t begin, int64_t end) {
  if (begin < 0 || begin > end || end > element_count(shape)) {
    throw std::invalid_argument("a range must lie inside its array");
  }
  std::vector<Rectangle> result;
  append(shape, {}, 0, begin, end, result);
  return result;
}

}  // namespace gsa
