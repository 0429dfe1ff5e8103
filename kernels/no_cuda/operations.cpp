// The operations of a build without CUDA. A planning stream may ask for workspaces (`gsa plan` of a
// GPU run on a laptop); nothing runs.
#include "kernels/backends.h"

namespace gsa::kernels::cuda {
namespace {

[[noreturn]] void absent() {
  throw DeviceError("this build has no CUDA kernels: configure with -DGSA_CUDA=ON");
}

}  // namespace

#define GSA_OPERATION(function, Arguments, phase)                \
  void function(Stream& /*stream*/, const Arguments& /*args*/) { \
    absent();                                                    \
  }
#define GSA_OPERATION_WITH_WORKSPACE(function, Arguments, phase)                           \
  void function(Stream& /*stream*/, const Arguments& /*args*/, std::byte* /*workspace*/) { \
    absent();                                                                              \
  }
#include "kernels/operations.def"

std::string product_library() {
  absent();
}
ProductMeasurement measure_product(Stream& /*stream*/, const Matmul& /*product*/) {
  absent();
}
std::string first_proposal(const Matmul& /*product*/) {
  absent();
}
bool choose_product(const Matmul& /*product*/, const std::string& /*algorithm*/) {
  absent();
}

#undef GSA_OPERATION
#undef GSA_OPERATION_WITH_WORKSPACE

}  // namespace gsa::kernels::cuda
