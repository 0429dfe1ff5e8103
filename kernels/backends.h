// What a backend defines: each operation of operations.def, in its own namespace. Only the
// dispatcher and the backends' files include this.
#pragma once

#include "kernels/operations.h"
#include "kernels/product_choice.h"

#define GSA_OPERATION(function, Arguments, phase) \
  void function(Stream& stream, const Arguments& args);
#define GSA_OPERATION_WITH_WORKSPACE(function, Arguments, phase)              \
  void function(Stream& stream, const Arguments& args, std::byte* workspace); \
  size_t function##_workspace(const Arguments& args);

namespace gsa::kernels::cpu {
#include "kernels/operations.def"
size_t gsa_chunked_saved_bytes(const GsaForward& args);
}  // namespace gsa::kernels::cpu

namespace gsa::kernels::cuda {
#include "kernels/operations.def"  // NOLINT(readability-duplicate-include): once a namespace
// Whether a kernel of its own computes the product, and not the library. Known in every build.
bool computes_by_tiles(const SwigluProductForward& args);
bool computes_by_tiles(const SwigluProductBackward& args);
size_t gsa_chunked_saved_bytes(const GsaForward& args);
std::string product_library();
ProductMeasurement measure_product(Stream& stream, const Matmul& product);
std::string first_proposal(const Matmul& product);
bool choose_product(const Matmul& product, const std::string& algorithm);
}  // namespace gsa::kernels::cuda

#undef GSA_OPERATION
#undef GSA_OPERATION_WITH_WORKSPACE
