// Tensor maps: how the copy engine finds boxes of a tensor in memory. A box is a panel of mma.h,
// rows of 64 bfloat16, or some side by side, with zeros where the tensor ends.
#pragma once

#include <cuda.h>
#include <cudaTypedefs.h>

#include <algorithm>
#include <string>

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

// A map of `dims` dimensions from the innermost on: their sizes, the bytes from one index to the
// next of all but the innermost, and a box. Memory and strides are multiples of 16 bytes.
template <int dims>
CUtensorMap encode_map(const bfloat16* data, const cuuint64_t (&sizes)[dims],
                       const cuuint64_t (&strides)[dims - 1], const cuuint32_t (&box)[dims]) {
  CUtensorMap map;
  cuuint32_t steps[dims];
  std::fill_n(steps, dims, 1);
  const CUresult result = tensor_map_encoder()(
      &map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, dims, const_cast<bfloat16*>(data), sizes, strides,
      box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    std::string shape;
    for (int dim = dims - 1; dim >= 0; --dim) {
      shape += std::to_string(sizes[dim]) + (dim > 0 ? ", " : "");
    }
    throw DeviceError("the CUDA driver takes no tensor map of [" + shape + "]: error " +
                      std::to_string(int(result)));
  }
  return map;
}

// Bytes between the rows of a matrix. A single row may have any stride; the map's must be a
// multiple of 16 bytes.
inline cuuint64_t row_bytes(int64_t rows, int64_t stride, int64_t columns) {
  return cuuint64_t(rows > 1 ? stride : columns) * sizeof(bfloat16);
}

// A map of a matrix: boxes of `box_rows` rows of 64 columns.
inline CUtensorMap map_panels(const ConstTensor& matrix, int box_rows) {
  const int64_t rows = matrix.dim(0);
  const int64_t columns = matrix.dim(1);
  return encode_map<2>(rows_of<bfloat16>(matrix).data, {cuuint64_t(columns), cuuint64_t(rows)},
                       {row_bytes(rows, matrix.row_stride(), columns)},
                       {panel_columns, cuuint32_t(box_rows)});
}

// A map of a matrix whose columns are whole panels: boxes of eight rows of `box_panels` panels side
// by side, of which each panel's eight rows come to lie together.
inline CUtensorMap map_row_groups(const ConstTensor& matrix, int box_panels) {
  const int64_t rows = matrix.dim(0);
  const int64_t columns = matrix.dim(1);
  return encode_map<3>(rows_of<bfloat16>(matrix).data,
                       {panel_columns, cuuint64_t(rows), cuuint64_t(columns / panel_columns)},
                       {row_bytes(rows, matrix.row_stride(), columns), cuuint64_t(panel_row_bytes)},
                       {panel_columns, 8, cuuint32_t(box_panels)});
}

// A map of [rows, heads, dim], rows `stride` elements apart: boxes of 64 rows of one head.
inline CUtensorMap map_boxes(const bfloat16* data, int64_t rows, int64_t heads, int64_t dim,
                             int64_t stride) {
  return encode_map<3>(data, {cuuint64_t(dim), cuuint64_t(heads), cuuint64_t(rows)},
                       {cuuint64_t(dim) * sizeof(bfloat16), row_bytes(rows, stride, heads * dim)},
                       {panel_columns, 1, chunk_rows});
}

inline CUtensorMap map_rows_by_head(const HeadRows<const bfloat16>& rows, int64_t heads,
                                    int64_t count) {
  return map_boxes(rows.data, count, heads, rows.dim, rows.stride);
}
inline CUtensorMap map_matrix(const bfloat16* data, int64_t rows, int64_t columns) {
  return map_boxes(data, rows, 1, columns, columns);
}

}  // namespace gsa::kernels::cuda
