// From tensors to the typed pointers that the CPU's loops run on.
#pragma once

#include <stdexcept>
#include <string>

#include "kernels/tensor.h"

namespace gsa::kernels::cpu {

// Calls body(float{}) or body(double{}) as `dtype` says; the body takes its type from the argument.
// Throws std::invalid_argument for any other dtype: the CPU does not compute in bfloat16.
template <typename Body>
void with_real_type(DType dtype, const char* operation, const Body& body) {
  switch (dtype) {
    case DType::float32:
      body(float{});
      return;
    case DType::float64:
      body(double{});
      return;
    default:
      throw std::invalid_argument(
          std::string(operation) + " on the CPU computes in float32 or float64, not in " +
          name_of(dtype) + (dtype == DType::bfloat16 ? ", which computes on CUDA only" : "") +
          "; convert the tensors first");
  }
}

// The rows of a tensor: rows[i] points at the first element of row i.
template <typename T>
struct Rows {
  T* data = nullptr;
  int64_t stride = 0;

  T* operator[](int64_t row) const { return data + row * stride; }
  explicit operator bool() const { return data != nullptr; }
};

// An absent tensor has absent rows.
template <typename T>
Rows<const T> rows_of(const ConstTensor& tensor) {
  return tensor ? Rows<const T>{tensor.as<T>(), tensor.row_stride()} : Rows<const T>{};
}
template <typename T>
Rows<T> rows_of(const Tensor& tensor) {
  return tensor ? Rows<T>{tensor.as<T>(), tensor.row_stride()} : Rows<T>{};
}

// The elements of a tensor, or null if it is absent.
template <typename T>
const T* elements_of(const ConstTensor& tensor) {
  return tensor ? tensor.as<T>() : nullptr;
}
template <typename T>
T* elements_of(const Tensor& tensor) {
  return tensor ? tensor.as<T>() : nullptr;
}

}  // namespace gsa::kernels::cpu
