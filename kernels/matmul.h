// Matrix products, through OpenBLAS on the CPU and cuBLASLt on CUDA.
#pragma once

#include "kernels/device.h"

namespace gsa::kernels {

enum class Transpose : uint8_t { no, yes };
enum class Accumulate : uint8_t { no, yes };

// c = op(a) op(b), or c += op(a) op(b), or c = addend + op(a) op(b). Rows may be strided, columns
// are contiguous. Operands are of one dtype; bfloat16 operands may have a bfloat16 or float32
// result. All sums, that with what was there or with the addend too, are in float32 and rounded
// once.
struct Matmul {
  ConstTensor a;  // [m, k], or [k, m] if transposed
  ConstTensor b;  // [k, n], or [n, k] if transposed
  Transpose transpose_a = Transpose::no;
  Transpose transpose_b = Transpose::no;
  Accumulate accumulate = Accumulate::no;
  ConstTensor addend;  // [m, n] of c's dtype and row stride, or absent
  Tensor c;            // [m, n]

  int64_t m() const { return c.dim(0); }
  int64_t n() const { return c.dim(1); }
  int64_t k() const { return a.dim(transpose_a == Transpose::yes ? 0 : 1); }
  double flops() const { return 2.0 * double(m()) * double(n()) * double(k()); }
  void check() const;
};

void matmul(Stream& stream, const Matmul& args);

}  // namespace gsa::kernels
