// SwiGLU backward together with the product behind it: swiglu_product_backward.h where tiles are
// taken, two operations elsewhere.
#include "kernels/cuda/swiglu_product_backward.h"

#include "kernels/backends.h"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/tile_launch.h"

namespace gsa::kernels::cuda {
namespace {

using namespace tile_product;

SwigluGradientProduct tiles_of(const SwigluProductBackward& args, std::byte* workspace) {
  const int64_t columns = args.output.dim(1);
  return {.left = map_panels(args.grad_product, tile_rows),
          .weight = map_panels(args.weight, panel_columns),
          .gate = map_panels(args.gate_up.columns(0, columns), SwigluGradientProduct::unit_rows),
          .up = map_panels(args.gate_up.columns(columns, 2 * columns),
                           SwigluGradientProduct::unit_rows),
          .grad_gate = rows_of<bfloat16>(args.grad_gate_up.columns(0, columns)),
          .grad_up = rows_of<bfloat16>(args.grad_gate_up.columns(columns, 2 * columns)),
          .output = rows_of<bfloat16>(args.output),
          .tokens = args.output.dim(0),
          .columns = int(columns),
          .tiles = Tiles::of(args.output.dim(0), columns, args.weight.dim(0), workspace)};
}

}  // namespace

void swiglu_product_backward(Stream& stream, const SwigluProductBackward& args,
                             std::byte* workspace) {
  if (args.output.dim(0) == 0 || args.output.dim(1) == 0) {
    return;
  }
  if (computes_by_tiles(args)) {
    launch_tiles(stream, tiles_of(args, workspace), "swiglu_product_backward");
    return;
  }
  matmul(stream, args.product(), workspace);
  cuda::swiglu_backward(stream, args.activation());
}

}  // namespace gsa::kernels::cuda
