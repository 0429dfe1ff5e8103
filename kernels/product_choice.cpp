#include "kernels/product_choice.h"

#include <algorithm>

namespace gsa::kernels {

int64_t product_alignment(const ConstTensor& operand) {
  constexpr uint64_t most = 256;
  const auto address = reinterpret_cast<uint64_t>(operand.data()) | most;
  return static_cast<int64_t>(address & (~address + 1));
}

int64_t product_stride(const ConstTensor& operand) {
  return std::max(operand.row_stride(), operand.dim(1));
}

ProductKey product_key(const Matmul& product) {
  return {product.m(),
          product.n(),
          product.k(),
          product_stride(product.a),
          product_stride(product.b),
          product_stride(product.c),
          int64_t(product.a.dtype()),
          int64_t(product.c.dtype()),
          int64_t(product.transpose_a),
          int64_t(product.transpose_b),
          product_alignment(product.a),
          product_alignment(product.b),
          product_alignment(product.c),
          int64_t(bool(product.addend))};
}

std::string product_name(const Matmul& product) {
  std::string name;
  for (const int64_t part : product_key(product)) {
    name += (name.empty() ? "" : "_") + std::to_string(part);
  }
  return name;
}

}  // namespace gsa::kernels
