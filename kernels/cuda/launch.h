// From tensors to kernels' arguments: element types, pointers, alignment.
#pragma once

#include <string>
#include <type_traits>

#include "kernels/cuda/check.h"
#include "kernels/cuda/vector.h"

namespace gsa::kernels::cuda {

using gsa::cuda::check;
using gsa::cuda::check_launch;
using gsa::cuda::native;

template <typename T>
inline constexpr DType element_dtype =
    std::is_same_v<std::remove_const_t<T>, bfloat16> ? DType::bfloat16 : DType::float32;

// Calls `f` with a value of the element type of `dtype`. Throws std::invalid_argument for types
// other than float32 and bfloat16.
template <typename F>
void with_element(DType dtype, const char* operation, F&& f) {
  switch (dtype) {
    case DType::float32:
      f(float{});
      return;
    case DType::bfloat16:
      f(bfloat16{});
      return;
    default:
      throw std::invalid_argument(std::string(operation) +
                                  " on CUDA takes float32 or bfloat16, not " + name_of(dtype) +
                                  "; run it on the CPU");
  }
}

// Calls `f` with Width<width>: `wide` where `vectorized`, else 1.
template <int wide = vector_width, typename F>
void with_width(bool vectorized, F&& f) {
  if (vectorized) {
    f(Width<wide>{});
  } else {
    f(Width<1>{});
  }
}

// Of the current device.
inline int multiprocessors_of_device() {
  int device = 0;
  int count = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device),
        "cudaDeviceGetAttribute");
  return count;
}

template <typename T>
void require_element(const ConstTensor& tensor) {
  if (tensor && tensor.dtype() != element_dtype<T>) {
    throw std::invalid_argument("a CUDA operation got " + std::string(name_of(tensor.dtype())) +
                                " where it takes " + name_of(element_dtype<T>));
  }
}

// The rows of a tensor; null if it is absent.
template <typename T>
Rows<const T> rows_of(const ConstTensor& tensor) {
  require_element<T>(tensor);
  return {static_cast<const T*>(tensor.data()), tensor.row_stride()};
}
template <typename T>
Rows<T> rows_of(const Tensor& tensor) {
  require_element<T>(tensor);
  return {static_cast<T*>(tensor.data()), tensor.row_stride()};
}

// The elements of a contiguous tensor; null if it is absent.
template <typename T>
const T* elements_of(const ConstTensor& tensor) {
  if (tensor && !tensor.is_contiguous()) {
    throw std::invalid_argument("a CUDA operation takes this tensor " + tensor.shape().text() +
                                " contiguous only");
  }
  if constexpr (std::is_same_v<T, float> || std::is_same_v<T, bfloat16>) {
    require_element<T>(tensor);
    return static_cast<const T*>(tensor.data());
  } else {
    return tensor ? tensor.as<T>() : nullptr;
  }
}
template <typename T>
T* elements_of(const Tensor& tensor) {
  return const_cast<T*>(elements_of<T>(static_cast<const ConstTensor&>(tensor)));
}

// Blocks of `size` that cover `count`.
inline unsigned blocks_of(int64_t count, int64_t size) {
  return static_cast<unsigned>((count + size - 1) / size);
}

}  // namespace gsa::kernels::cuda
