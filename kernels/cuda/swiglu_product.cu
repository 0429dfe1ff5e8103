// SwiGLU together with the product in front of it: swiglu_product.h for bfloat16 that is
// aligned, two operations elsewhere.
#include "kernels/cuda/swiglu_product.h"

#include "kernels/backends.h"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/tile_launch.h"

namespace gsa::kernels::cuda {
namespace {

using namespace tile_product;

SwigluProduct tiles_of(const SwigluProductForward& args, std::byte* workspace) {
  const int64_t tokens = args.gate_up.dim(0);
  const int64_t columns = args.gate_up.dim(1) / 2;
  return {.left = map_panels(args.input, tile_rows),
          .gate_weight = map_panels(args.weight.rows(0, columns), half_columns),
          .up_weight = map_panels(args.weight.rows(columns, 2 * columns), half_columns),
          .gate = rows_of<bfloat16>(args.gate_up.columns(0, columns)),
          .up = rows_of<bfloat16>(args.gate_up.columns(columns, 2 * columns)),
          .output = rows_of<bfloat16>(args.output),
          .tokens = tokens,
          .columns = int(columns),
          .tiles = Tiles::of(tokens, 2 * columns, args.input.dim(1), workspace)};
}

}  // namespace

void swiglu_product_forward(Stream& stream, const SwigluProductForward& args,
                            std::byte* workspace) {
  if (args.gate_up.dim(0) == 0 || args.gate_up.dim(1) == 0) {
    return;
  }
  if (computes_by_tiles(args)) {
    launch_tiles(stream, tiles_of(args, workspace), "swiglu_product_forward");
    return;
  }
  matmul(stream, args.product(), workspace);
  if (args.output) {
    cuda::swiglu_forward(stream, args.activation());
  }
}

}  // namespace gsa::kernels::cuda
