// Which of a library's algorithms computes a matrix product, chosen by measurement.
//
// cuBLASLt's heuristics propose several algorithms for a product; which of them is the fastest
// shows only when they run. `measure_product` runs them, before a run's first step, and
// `choose_product` has later products of the calling thread use its answer. Without a choice a
// product takes the heuristics' first proposal. Choices are text, to be kept in files and sent to
// other ranks.
//
// Algorithms add in different orders, so that their results differ within rounding: a run that is
// to give the same bits after a restart makes the same choices again. All of them give the same
// bits every time, and none of this exists on the CPU.
#pragma once

#include <array>
#include <string>

#include "kernels/matmul.h"

namespace gsa::kernels {

// What choices hold for, "NVIDIA H200, cuBLASLt 130000"; empty where there is nothing to choose.
std::string product_library(const Stream& stream);

// A product as far as a choice depends on it: shapes, strides, types, transposition, alignment, and
// whether it has an addend.
// Its operands are not read, and may be those of a plan. The name is the key as one word.
using ProductKey = std::array<int64_t, 14>;
ProductKey product_key(const Matmul& product);
std::string product_name(const Matmul& product);
// The largest power of two up to 256 that divides an operand's address, which decides what
// algorithms may read it; its row stride (a matrix of one row may have any).
int64_t product_alignment(const ConstTensor& operand);
int64_t product_stride(const ConstTensor& operand);

struct ProductMeasurement {
  std::string algorithm;    // one word, for choose_product
  double milliseconds = 0;  // the fastest
  double first_ms = 0;      // what the heuristics propose first
};

// Measures the proposals for this product on operands of its own, pseudo-random and of the same
// layout. CUDA only; allocates, and waits for the GPU: not for use inside a step. Of proposals
// within half a percent of each other the earlier one counts as the faster.
ProductMeasurement measure_product(Stream& stream, const Matmul& product);

// What the heuristics propose first, and so the product takes without a choice: as text, for those
// who must take the same elsewhere. CUDA only.
std::string first_proposal(const Stream& stream, const Matmul& product);

// Has products like this one use the algorithm. False, and nothing changes, if the library does not
// take it for this product.
bool choose_product(const Stream& stream, const Matmul& product, const std::string& algorithm);

}  // namespace gsa::kernels
