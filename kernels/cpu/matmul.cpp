#include "kernels/backends.h"

#include <cblas.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/cpu/typed.h"

namespace gsa::kernels::cpu {
namespace {

blasint blas_int(int64_t value) {
  if (value > std::numeric_limits<blasint>::max()) {
    throw std::invalid_argument("a matrix dimension of " + std::to_string(value) +
                                " is more than OpenBLAS can take");
  }
  return static_cast<blasint>(value);
}

// The distance of rows. A matrix of one row may carry any stride; BLAS wants at least its columns.
blasint leading_dimension(const ConstTensor& matrix) {
  return blas_int(std::max<int64_t>({matrix.row_stride(), matrix.dim(1), 1}));
}

CBLAS_TRANSPOSE turned(Transpose transpose) {
  return transpose == Transpose::yes ? CblasTrans : CblasNoTrans;
}

Transpose other(Transpose transpose) {
  return transpose == Transpose::yes ? Transpose::no : Transpose::yes;
}

// What c holds before the product is added to it, and whether it counts.
template <typename T>
T prepare_result(const Matmul& args) {
  if (args.addend && args.addend.data() != args.c.data()) {
    const auto from = rows_of<T>(args.addend);
    const auto to = rows_of<T>(args.c);
    for (int64_t i = 0; i < args.m(); ++i) {
      std::memcpy(to[i], from[i], static_cast<size_t>(args.n()) * sizeof(T));
    }
  }
  return args.addend || args.accumulate == Accumulate::yes ? T(1) : T(0);
}

template <typename T>
void product(const Matmul& args) {
  const T beta = prepare_result<T>(args);
  const auto call = [&](auto gemm) {
    gemm(CblasRowMajor, turned(args.transpose_a), turned(args.transpose_b), blas_int(args.m()),
         blas_int(args.n()), blas_int(args.k()), T(1), args.a.as<T>(), leading_dimension(args.a),
         args.b.as<T>(), leading_dimension(args.b), beta, args.c.as<T>(),
         leading_dimension(args.c));
  };
  if constexpr (sizeof(T) == sizeof(float)) {
    call(cblas_sgemm);
  } else {
    call(cblas_dgemm);
  }
}

// One row times a matrix, as a step of generation at batch 1: bound by reading the matrix, which
// the matrix-vector product does at full speed.
template <typename T>
void row_product(const Matmul& args) {
  const T beta = prepare_result<T>(args);
  const auto call = [&](auto gemv) {
    gemv(CblasRowMajor, turned(other(args.transpose_b)), blas_int(args.b.dim(0)),
         blas_int(args.b.dim(1)), T(1), args.b.as<T>(), leading_dimension(args.b), args.a.as<T>(),
         1, beta, args.c.as<T>(), 1);
  };
  if constexpr (sizeof(T) == sizeof(float)) {
    call(cblas_sgemv);
  } else {
    call(cblas_dgemv);
  }
}

template <typename T>
void fill_zero_rows(const Tensor& matrix) {
  const auto rows = rows_of<T>(matrix);
  for (int64_t i = 0; i < matrix.dim(0); ++i) {
    std::memset(rows[i], 0, static_cast<size_t>(matrix.dim(1)) * sizeof(T));
  }
}

}  // namespace

void matmul(Stream& /*stream*/, const Matmul& args, std::byte* /*workspace*/) {
  with_real_type(args.a.dtype(), "matmul", [&](auto type) {
    using T = decltype(type);
    if (args.c.count() == 0) {
      return;
    }
    if (args.k() == 0) {
      if (prepare_result<T>(args) == T(0)) {
        fill_zero_rows<T>(args.c);
      }
      return;
    }
    if (args.m() == 1 && args.transpose_a == Transpose::no) {
      row_product<T>(args);
    } else {
      product<T>(args);
    }
  });
}

size_t matmul_workspace(const Matmul& /*args*/) {
  return 0;
}

}  // namespace gsa::kernels::cpu
