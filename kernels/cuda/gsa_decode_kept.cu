// One token of gated slot attention a sequence where states are written every few steps, by the
// kernel of gsa_decode_kept_step.h, and the count of steps.
#include "kernels/backends.h"
#include "kernels/cuda/gsa_decode_host.h"
#include "kernels/cuda/gsa_decode_kept_step.h"

namespace gsa::kernels::cuda {
namespace {

using namespace gsa_decode_block;

template <typename T>
void run(Stream& stream, const GsaDecode& args) {
  const DecodeArgs<T> decode = decode_args<T>(args);
  const int keys = decode.key_dim / decode.cluster;
  const int values = decode.value_dim / decode.cluster;
  const int period = int(args.kept.period());
  const KeptArgs<T> kept{.decode = decode,
                         .keys = keys,
                         .values = values,
                         .row = int(args.kept.rows.dim(2)),
                         .rows = elements_of<T>(args.kept.rows),
                         .step = elements_of<int32_t>(args.kept.step),
                         .offset = int(args.kept.offset % period),
                         .period = period,
                         .layout = Layout(decode.cluster, period, keys, values, decode.slots)};
  launch_dependent(kept_kernel<T>,
                   {.blocks = blocks_of(args, decode),
                    .threads = threads,
                    .cluster = unsigned(decode.cluster),
                    .shared_bytes = size_t(kept.layout.end) * sizeof(float)},
                   kept, stream, "gsa_decode");
}

__global__ void count_kernel(int32_t* step) {
  let_next_start();
  wait_for_previous();
  *step += 1;
}

}  // namespace

void gsa_decode_kept(Stream& stream, const GsaDecode& args) {
  if (args.kept.period() > max_tokens) {
    throw std::invalid_argument("gsa_decode on CUDA keeps up to " + std::to_string(max_tokens - 1) +
                                " tokens, not " + std::to_string(args.kept.period() - 1));
  }
  with_element(args.projected.dtype(), "gsa_decode",
               [&](auto element) { run<decltype(element)>(stream, args); });
}

void count_step(Stream& stream, const CountStep& args) {
  launch_dependent(count_kernel, {.cached = true}, elements_of<int32_t>(args.step), stream,
                   "count_step");
}

}  // namespace gsa::kernels::cuda
