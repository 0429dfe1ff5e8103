// cuBLASLt, a product as it knows it, and which algorithm computes it.
#pragma once

#include <cublasLt.h>

#include <map>
#include <string>
#include <vector>

#include "kernels/cuda/launch.h"
#include "kernels/product_choice.h"

namespace gsa::kernels::cuda {

// Throws DeviceError with the library's own words.
void check_library(cublasStatus_t status, const char* what);

// "[m, k] x [k, n] in bfloat16", for messages.
std::string text_of(const Matmul& args);

// An algorithm of cuBLASLt. In a type with a name of its own, for nvcc does not compile containers
// of the library's unnamed one.
struct ProductAlgorithm {
  cublasLtMatmulAlgo_t value;
};

// A product as cuBLASLt knows it, with an algorithm. Its members own nothing: they are the
// library's plain structures.
struct ProductPlan {
  cublasLtMatmulDescOpaque_t product;
  cublasLtMatrixLayoutOpaque_t a;
  cublasLtMatrixLayoutOpaque_t b;
  cublasLtMatrixLayoutOpaque_t c;
  ProductAlgorithm algorithm;
};

// cuBLASLt on one device, for one thread.
class MatmulLibrary {
 public:
  static constexpr int most_proposals = 16;

  MatmulLibrary();
  ~MatmulLibrary();
  MatmulLibrary(const MatmulLibrary&) = delete;
  MatmulLibrary& operator=(const MatmulLibrary&) = delete;

  // The product with the algorithm chosen for it, or with the first proposal. Not const: cuBLASLt
  // takes its structures by plain pointers.
  ProductPlan& plan(const Matmul& args);
  // Up to `most` algorithms for the product, as the heuristics rank them. Throws DeviceError if
  // there is none.
  std::vector<ProductAlgorithm> proposals(const Matmul& args, int most) const;
  // Whether the library takes this algorithm for the product.
  bool takes(const Matmul& args, const ProductAlgorithm& algorithm) const;
  // Has `plan` give this algorithm from now on; false if the library does not take it.
  bool choose(const Matmul& args, const ProductAlgorithm& algorithm);

  // Queues the product.
  void run(Stream& stream, ProductPlan& plan, const Matmul& args, std::byte* workspace) const;

 private:
  cublasLtHandle_t handle_ = nullptr;
  std::map<ProductKey, ProductPlan> plans_;
};

// Further algorithms that the library takes for the product, by the size of their tiles
// (matmul_tiles.cu).
std::vector<ProductAlgorithm> filling_algorithms(const MatmulLibrary& library,
                                                 const Matmul& product);

// The calling thread's, on its current device: a handle belongs to a device, and a thread's own
// needs no lock.
MatmulLibrary& matmul_library();

}  // namespace gsa::kernels::cuda
