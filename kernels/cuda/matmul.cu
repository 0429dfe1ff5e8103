// Matrix products through cuBLASLt.
//
// cuBLASLt's matrices are column-major; a row-major matrix is its own transpose there, so c = op(a)
// op(b) is asked for as c^T = op(b)^T op(a)^T: operands change places, nothing is moved. Sums are
// float32 (without tf32 for float32 operands); an accumulated result is added in the product's
// epilogue. Split sums are allowed only where their parts are added in a fixed order.
//
// The algorithm of a product, cuBLASLt's first proposal or the choice of matmul_choice.cu, is kept,
// by shapes, strides, types and alignment, for as long as the thread lives.
#include <algorithm>
#include <array>

#include "kernels/backends.h"
#include "kernels/cuda/matmul_library.h"
#include "kernels/cuda/workspace.h"

namespace gsa::kernels::cuda {
namespace {

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
                                         uint64_t(tensor.dim(0)), product_stride(tensor)),
                "cublasLtMatrixLayoutInit");
  return layout;
}

cublasOperation_t operation_of(Transpose transpose) {
  return transpose == Transpose::yes ? CUBLAS_OP_T : CUBLAS_OP_N;
}

ProductPlan plan_of(const Matmul& args) {
  ProductPlan plan{};
  check_library(cublasLtMatmulDescInit(&plan.product, CUBLAS_COMPUTE_32F, CUDA_R_32F),
                "cublasLtMatmulDescInit");
  set(plan.product, CUBLASLT_MATMUL_DESC_TRANSA, operation_of(args.transpose_b));
  set(plan.product, CUBLASLT_MATMUL_DESC_TRANSB, operation_of(args.transpose_a));
  plan.a = layout_of(args.a);
  plan.b = layout_of(args.b);
  plan.c = layout_of(args.c);
  return plan;
}

cublasLtMatmulPreferenceOpaque_t preference_of(const Matmul& args) {
  cublasLtMatmulPreferenceOpaque_t preference{};
  check_library(cublasLtMatmulPreferenceInit(&preference), "cublasLtMatmulPreferenceInit");
  set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{matmul_workspace_bytes});
  set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
      uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, uint32_t(product_alignment(args.b)));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, uint32_t(product_alignment(args.a)));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, uint32_t(product_alignment(args.c)));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, uint32_t(product_alignment(args.c)));
  return preference;
}

// c of a product without terms.
void fill_without_product(Stream& stream, const Matmul& args) {
  const size_t element = size_of(args.c.dtype());
  const size_t pitch = size_t(product_stride(args.c)) * element;
  const size_t width = size_t(args.n()) * element;
  if (args.addend) {
    check(cudaMemcpy2DAsync(args.c.data(), pitch, args.addend.data(), pitch, width,
                            size_t(args.m()), cudaMemcpyDeviceToDevice, native(stream)),
          "cudaMemcpy2DAsync");
  } else if (args.accumulate == Accumulate::no) {
    check(cudaMemset2DAsync(args.c.data(), pitch, 0, width, size_t(args.m()), native(stream)),
          "cudaMemset2DAsync");
  }
}

}  // namespace

void check_library(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) {
    throw DeviceError(std::string(what) + ": " + cublasLtGetStatusString(status) + " (" +
                      cublasLtGetStatusName(status) + ")");
  }
}

std::string text_of(const Matmul& args) {
  return "[" + std::to_string(args.m()) + ", " + std::to_string(args.k()) + "] x [" +
         std::to_string(args.k()) + ", " + std::to_string(args.n()) + "] in " +
         name_of(args.a.dtype());
}

MatmulLibrary::MatmulLibrary() {
  check_library(cublasLtCreate(&handle_), "cublasLtCreate");
}

MatmulLibrary::~MatmulLibrary() {
  cublasLtDestroy(handle_);
}

std::vector<ProductAlgorithm> MatmulLibrary::proposals(const Matmul& args, int most) const {
  ProductPlan plan = plan_of(args);
  cublasLtMatmulPreferenceOpaque_t preference = preference_of(args);
  std::array<cublasLtMatmulHeuristicResult_t, MatmulLibrary::most_proposals> found{};
  int count = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      handle_, &plan.product, &plan.b, &plan.a, &plan.c, &plan.c, &preference,
      std::min(most, most_proposals), found.data(), &count);
  if (status != CUBLAS_STATUS_SUCCESS || count == 0) {
    throw DeviceError("cuBLASLt has no algorithm for the product " + text_of(args) + ": " +
                      cublasLtGetStatusString(status));
  }
  std::vector<ProductAlgorithm> algorithms;
  for (int i = 0; i < count; ++i) {
    if (found[size_t(i)].state == CUBLAS_STATUS_SUCCESS) {
      algorithms.push_back({found[size_t(i)].algo});
    }
  }
  return algorithms;
}

ProductPlan& MatmulLibrary::plan(const Matmul& args) {
  const ProductKey key = product_key(args);
  const auto found = plans_.find(key);
  if (found != plans_.end()) {
    return found->second;
  }
  ProductPlan plan = plan_of(args);
  plan.algorithm = proposals(args, 1).front();
  return plans_.emplace(key, plan).first->second;
}

bool MatmulLibrary::takes(const Matmul& args, const ProductAlgorithm& algorithm) const {
  ProductPlan plan = plan_of(args);
  cublasLtMatmulHeuristicResult_t result{};
  const cublasStatus_t status = cublasLtMatmulAlgoCheck(
      handle_, &plan.product, &plan.b, &plan.a, &plan.c, &plan.c, &algorithm.value, &result);
  return status == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= matmul_workspace_bytes;
}

bool MatmulLibrary::choose(const Matmul& args, const ProductAlgorithm& algorithm) {
  if (!takes(args, algorithm)) {
    return false;
  }
  ProductPlan plan = plan_of(args);
  plan.algorithm = algorithm;
  plans_.insert_or_assign(product_key(args), plan);
  return true;
}

void MatmulLibrary::run(Stream& stream, ProductPlan& plan, const Matmul& args,
                        std::byte* workspace) const {
  const float one = 1;
  const ConstTensor added = args.addend ? args.addend : args.c;
  const float keep = args.addend || args.accumulate == Accumulate::yes ? 1 : 0;
  check_library(
      cublasLtMatmul(handle_, &plan.product, &one, args.b.data(), &plan.b, args.a.data(), &plan.a,
                     &keep, added.data(), &plan.c, args.c.data(), &plan.c, &plan.algorithm.value,
                     workspace, matmul_workspace_bytes, native(stream)),
      "cublasLtMatmul");
}

MatmulLibrary& matmul_library() {
  thread_local std::map<int, MatmulLibrary> libraries;
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  return libraries[device];
}

void matmul(Stream& stream, const Matmul& args, std::byte* workspace) {
  if (args.m() == 0 || args.n() == 0) {
    return;
  }
  if (args.k() == 0) {
    fill_without_product(stream, args);
    return;
  }
  MatmulLibrary& library = matmul_library();
  library.run(stream, library.plan(args), args, workspace);
}

}  // namespace gsa::kernels::cuda
