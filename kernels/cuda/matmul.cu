// Matrix products through cuBLASLt.
//
// cuBLASLt's matrices are column-major; a row-major matrix is its own transpose there, so c = op(a)
// op(b) is asked for as c^T = op(b)^T op(a)^T: operands change places, nothing is moved. Sums are
// float32 (without tf32 for float32 operands); an accumulated result is added in the product's
// epilogue. Split sums are allowed only where their parts are added in a fixed order.
//
// What cuBLASLt's heuristics choose for a product is kept, by shapes, strides, types and alignment,
// for as long as the thread lives.
#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <map>

#include "kernels/backends.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/workspace.h"

namespace gsa::kernels::cuda {
namespace {

void check_library(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) {
    throw DeviceError(std::string(what) + ": " + cublasLtGetStatusString(status) + " (" +
                      cublasLtGetStatusName(status) + ")");
  }
}

cudaDataType_t data_type(const ConstTensor& tensor) {
  switch (tensor.dtype()) {
    case DType::float32:
      return CUDA_R_32F;
    case DType::bfloat16:
      return CUDA_R_16BF;
    default:
      throw std::invalid_argument(std::string("matmul on CUDA takes float32 or bfloat16, not ") +
                                  name_of(tensor.dtype()) + "; run it on the CPU");
  }
}

// The largest power of two up to 256 that divides the address, which decides what algorithms may
// read it.
uint32_t alignment_of(const ConstTensor& tensor) {
  constexpr uint64_t most = 256;
  const auto address = reinterpret_cast<uint64_t>(tensor.data()) | most;
  return uint32_t(address & (~address + 1));
}

// A matrix of one row may have any stride.
int64_t stride_of(const ConstTensor& tensor) {
  return std::max(tensor.row_stride(), tensor.dim(1));
}

// Everything the choice of an algorithm depends on.
using Key = std::array<int64_t, 14>;

Key key_of(const Matmul& args) {
  return {args.m(),
          args.n(),
          args.k(),
          stride_of(args.a),
          stride_of(args.b),
          stride_of(args.c),
          int64_t(args.a.dtype()),
          int64_t(args.c.dtype()),
          int64_t(args.transpose_a),
          int64_t(args.transpose_b),
          int64_t(args.accumulate),
          alignment_of(args.a),
          alignment_of(args.b),
          alignment_of(args.c)};
}

// A product as cuBLASLt knows it, with the algorithm chosen. Its members own nothing: they are the
// library's plain structures.
struct Plan {
  cublasLtMatmulDescOpaque_t product;
  cublasLtMatrixLayoutOpaque_t a;
  cublasLtMatrixLayoutOpaque_t b;
  cublasLtMatrixLayoutOpaque_t c;
  cublasLtMatmulAlgo_t algorithm;
};

template <typename Value>
void set(cublasLtMatmulDescOpaque_t& product, cublasLtMatmulDescAttributes_t attribute,
         Value value) {
  check_library(cublasLtMatmulDescSetAttribute(&product, attribute, &value, sizeof(value)),
                "cublasLtMatmulDescSetAttribute");
}

template <typename Value>
void set(cublasLtMatmulPreferenceOpaque_t& preference,
         cublasLtMatmulPreferenceAttributes_t attribute, Value value) {
  check_library(cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &value, sizeof(value)),
                "cublasLtMatmulPreferenceSetAttribute");
}

// The row-major matrix as cuBLASLt sees it: transposed.
cublasLtMatrixLayoutOpaque_t layout_of(const ConstTensor& tensor) {
  cublasLtMatrixLayoutOpaque_t layout{};
  check_library(cublasLtMatrixLayoutInit(&layout, data_type(tensor), uint64_t(tensor.dim(1)),
                                         uint64_t(tensor.dim(0)), stride_of(tensor)),
                "cublasLtMatrixLayoutInit");
  return layout;
}

cublasOperation_t operation_of(Transpose transpose) {
  return transpose == Transpose::yes ? CUBLAS_OP_T : CUBLAS_OP_N;
}

std::string text_of(const Matmul& args) {
  return "[" + std::to_string(args.m()) + ", " + std::to_string(args.k()) + "] x [" +
         std::to_string(args.k()) + ", " + std::to_string(args.n()) + "] in " +
         name_of(args.a.dtype());
}

// The first of the algorithms that cuBLASLt proposes.
cublasLtMatmulAlgo_t choose(cublasLtHandle_t library, const Matmul& args, Plan& plan) {
  cublasLtMatmulPreferenceOpaque_t preference{};
  check_library(cublasLtMatmulPreferenceInit(&preference), "cublasLtMatmulPreferenceInit");
  set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{matmul_workspace_bytes});
  set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
      uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(args.b));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(args.a));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(args.c));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(args.c));
  cublasLtMatmulHeuristicResult_t found{};
  int count = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      library, &plan.product, &plan.b, &plan.a, &plan.c, &plan.c, &preference, 1, &found, &count);
  if (status != CUBLAS_STATUS_SUCCESS || count == 0) {
    throw DeviceError("cuBLASLt has no algorithm for the product " + text_of(args) + ": " +
                      cublasLtGetStatusString(status));
  }
  return found.algo;
}

// cuBLASLt on one device, for one thread.
class Library {
 public:
  Library() { check_library(cublasLtCreate(&handle_), "cublasLtCreate"); }
  ~Library() { cublasLtDestroy(handle_); }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  cublasLtHandle_t handle() const { return handle_; }

  // Not const: cuBLASLt takes its structures by plain pointers.
  Plan& plan(const Matmul& args) {
    const Key key = key_of(args);
    const auto found = plans_.find(key);
    if (found != plans_.end()) {
      return found->second;
    }
    Plan plan{};
    check_library(cublasLtMatmulDescInit(&plan.product, CUBLAS_COMPUTE_32F, CUDA_R_32F),
                  "cublasLtMatmulDescInit");
    set(plan.product, CUBLASLT_MATMUL_DESC_TRANSA, operation_of(args.transpose_b));
    set(plan.product, CUBLASLT_MATMUL_DESC_TRANSB, operation_of(args.transpose_a));
    plan.a = layout_of(args.a);
    plan.b = layout_of(args.b);
    plan.c = layout_of(args.c);
    plan.algorithm = choose(handle_, args, plan);
    return plans_.emplace(key, plan).first->second;
  }

 private:
  cublasLtHandle_t handle_ = nullptr;
  std::map<Key, Plan> plans_;
};

// A handle belongs to a device, and a thread's own needs no lock.
Library& library() {
  thread_local std::map<int, Library> libraries;
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  return libraries[device];
}

}  // namespace

void matmul(Stream& stream, const Matmul& args, std::byte* workspace) {
  if (args.m() == 0 || args.n() == 0) {
    return;
  }
  if (args.k() == 0) {
    if (args.accumulate == Accumulate::no) {
      const size_t element = size_of(args.c.dtype());
      check(cudaMemset2DAsync(args.c.data(), size_t(stride_of(args.c)) * element, 0,
                              size_t(args.n()) * element, size_t(args.m()), native(stream)),
            "cudaMemset2DAsync");
    }
    return;
  }
  Library& lt = library();
  Plan& plan = lt.plan(args);
  const float one = 1;
  const float keep = args.accumulate == Accumulate::yes ? 1 : 0;
  check_library(
      cublasLtMatmul(lt.handle(), &plan.product, &one, args.b.data(), &plan.b, args.a.data(),
                     &plan.a, &keep, args.c.data(), &plan.c, args.c.data(), &plan.c,
                     &plan.algorithm, workspace, matmul_workspace_bytes, native(stream)),
      "cublasLtMatmul");
}

}  // namespace gsa::kernels::cuda
