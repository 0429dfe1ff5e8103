// Tensor maps: how the copy engine finds boxes of a tensor in memory. Each box is one panel of
// mma.h, 64 rows of 64 bfloat16, with zeros where the tensor ends.
#pragma once

#include <cuda.h>
#include <cudaTypedefs.h>

#include "kernels/cuda/gsa_kernels.h"

namespace gsa::kernels::cuda {

// The driver's function, found without linking the driver.
inline PFN_cuTensorMapEncodeTiled_v12000 tensor_map_encoder() {
  static const auto encoder = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result{};
    constexpr unsigned version = 12000;
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, version,
                                           cudaEnableDefault, &result),
          "cuTensorMapEncodeTiled");
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
  }();
  return encoder;
}

// A map of a matrix whose rows are `stride` elements apart: boxes of `box_rows` rows of 64 columns.
// Memory and rows begin at multiples of 16 bytes.
inline CUtensorMap map_panels(const ConstTensor& matrix, int box_rows) {
  const int64_t rows = matrix.dim(0);
  const int64_t columns = matrix.dim(1);
  CUtensorMap map;
  const cuuint64_t sizes[2] = {cuuint64_t(columns), cuuint64_t(rows)};
  const cuuint64_t stride = cuuint64_t(rows > 1 ? matrix.row_stride() : columns) * sizeof(bfloat16);
  const cuuint32_t box[2] = {panel_columns, cuuint32_t(box_rows)};
  const cuuint32_t steps[2] = {1, 1};
  const CUresult result =
      tensor_map_encoder()(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2,
                           const_cast<bfloat16*>(rows_of<bfloat16>(matrix).data), sizes, &stride,
                           box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                           CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    throw DeviceError("the CUDA driver takes no tensor map of [" + std::to_string(rows) + ", " +
                      std::to_string(columns) + "]: error " + std::to_string(int(result)));
  }
  return map;
}

// A map of [rows, heads, dim], rows `stride` elements apart: boxes of 64 rows of one head.
inline CUtensorMap map_boxes(const bfloat16* data, int64_t rows, int64_t heads, int64_t dim,
                             int64_t stride) {
  CUtensorMap map;
  const cuuint64_t sizes[3] = {cuuint64_t(dim), cuuint64_t(heads), cuuint64_t(rows)};
  // A single row may have any stride; the map's must be a multiple of 16 bytes.
  const int64_t row_stride = rows > 1 ? stride : heads * dim;
  const cuuint64_t strides[2] = {cuuint64_t(dim) * sizeof(bfloat16),
                                 cuuint64_t(row_stride) * sizeof(bfloat16)};
  const cuuint32_t box[3] = {panel_columns, 1, chunk_rows};
  const cuuint32_t steps[3] = {1, 1, 1};
  const CUresult result = tensor_map_encoder()(
      &map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<bfloat16*>(data), sizes, strides, box,
      steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    throw DeviceError("the CUDA driver takes no tensor map of " + std::to_string(rows) + " rows, " +
                      std::to_string(heads) + " heads, " + std::to_string(dim) +
                      " columns: error " + std::to_string(int(result)));
  }
  return map;
}

inline CUtensorMap map_rows_by_head(const HeadRows<const bfloat16>& rows, int64_t heads,
                                    int64_t count) {
  return map_boxes(rows.data, count, heads, rows.dim, rows.stride);
}
inline CUtensorMap map_matrix(const bfloat16* data, int64_t rows, int64_t columns) {
  return map_boxes(data, rows, 1, columns, columns);
}

}  // namespace gsa::kernels::cuda
