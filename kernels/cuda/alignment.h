// Whether memory can be accessed 16 bytes at a time. Plain C++: plans ask too.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/tensor.h"

namespace gsa::kernels::cuda {

inline constexpr int access_bytes = 16;

// Whether every row of the tensor begins at a multiple of 16 bytes; so it does if it is absent.
inline bool is_aligned(const ConstTensor& tensor) {
  const size_t row_bytes = size_t(tensor.row_stride()) * size_of(tensor.dtype());
  const bool one_row = !tensor || tensor.rank() < 2 || tensor.dim(0) <= 1;
  return reinterpret_cast<uintptr_t>(tensor.data()) % access_bytes == 0 &&
         (one_row || row_bytes % access_bytes == 0);
}

template <typename... Tensors>
bool are_aligned(const Tensors&... tensors) {
  return (is_aligned(tensors) && ...);
}

}  // namespace gsa::kernels::cuda
