#include "kernels/tensor.h"

namespace gsa {

Shape::Shape(std::initializer_list<int64_t> dims) {
  if (dims.size() > static_cast<size_t>(max_rank)) {
    throw std::invalid_argument("a shape has at most four dimensions");
  }
  for (int64_t dim : dims) {
    dims_[static_cast<size_t>(rank_++)] = dim;
  }
}

int64_t Shape::count() const {
  int64_t product = rank_ == 0 ? 0 : 1;
  for (int i = 0; i < rank_; ++i) {
    product *= (*this)[i];
  }
  return product;
}

int64_t Shape::row_count() const {
  int64_t product = rank_ == 0 ? 0 : 1;
  for (int i = 1; i < rank_; ++i) {
    product *= (*this)[i];
  }
  return product;
}

std::string Shape::text() const {
  std::string text = "[";
  for (int i = 0; i < rank_; ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string((*this)[i]);
  }
  return text + "]";
}

ConstTensor::ConstTensor(const void* data, DType dtype, Device device, Shape shape)
    : data_(data), dtype_(dtype), device_(device), shape_(shape), row_stride_(shape.row_count()) {}

bool ConstTensor::is_contiguous() const {
  return row_stride_ == shape_.row_count() || (rank() > 0 && dim(0) <= 1);
}

void ConstTensor::require_dtype(DType wanted) const {
  if (dtype_ != wanted) {
    throw std::invalid_argument(std::string("tensor ") + shape_.text() + " holds " +
                                name_of(dtype_) + ", not " + name_of(wanted));
  }
}

const std::byte* ConstTensor::at_row(int64_t row) const {
  return static_cast<const std::byte*>(data_) + row * row_stride_ * int64_t(size_of(dtype_));
}

ConstTensor ConstTensor::rows(int64_t begin, int64_t end) const {
  if (rank() == 0 || begin < 0 || begin > end || end > dim(0)) {
    throw std::invalid_argument("rows " + std::to_string(begin) + " to " + std::to_string(end) +
                                " of a tensor " + shape_.text());
  }
  ConstTensor view = *this;
  view.data_ = at_row(begin);
  switch (rank()) {
    case 1:
      view.shape_ = {end - begin};
      break;
    case 2:
      view.shape_ = {end - begin, dim(1)};
      break;
    case 3:
      view.shape_ = {end - begin, dim(1), dim(2)};
      break;
    default:
      view.shape_ = {end - begin, dim(1), dim(2), dim(3)};
      break;
  }
  return view;
}

ConstTensor ConstTensor::columns(int64_t begin, int64_t end) const {
  if (rank() != 2 || begin < 0 || begin > end || end > dim(1)) {
    throw std::invalid_argument("columns " + std::to_string(begin) + " to " + std::to_string(end) +
                                " of a tensor " + shape_.text());
  }
  ConstTensor view = *this;
  view.data_ = static_cast<const std::byte*>(data_) + begin * int64_t(size_of(dtype_));
  view.shape_ = {dim(0), end - begin};
  return view;
}

ConstTensor ConstTensor::reshape(Shape shape) const {
  const bool same_rows = shape.rank() > 0 && rank() > 0 && shape[0] == dim(0);
  if (shape.count() != count() || (!is_contiguous() && !same_rows)) {
    throw std::invalid_argument("a tensor " + shape_.text() + " cannot be seen as " + shape.text());
  }
  ConstTensor view = *this;
  view.shape_ = shape;
  view.row_stride_ = is_contiguous() ? shape.row_count() : row_stride_;
  return view;
}

void require_shape(const ConstTensor& tensor, const Shape& shape, const char* what) {
  if (tensor.shape() != shape) {
    throw std::invalid_argument(std::string(what) + " must be " + shape.text() + ", is " +
                                tensor.shape().text());
  }
}

}  // namespace gsa
