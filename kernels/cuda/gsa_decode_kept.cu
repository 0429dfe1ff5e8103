// One token of gated slot attention a sequence where states are written every few steps, by the
// kernel of gsa_decode_kept_step.h, and the count of steps.
#include "kernels/backends.h"
#include "kernels/cuda/gsa_decode_host.h"
#include "kernels/cuda/gsa_decode_kept_step.h"

namespace gsa::kernels::cuda {
namespace {

using namespace gsa_decode_block;

constexpr int block_memory_bytes = 113 << 10;  // where a multiprocessor has two blocks
constexpr int most_memory_bytes = 227 << 10;
constexpr int least_chunks = 3;

int64_t blocks_of(const GsaDecode& args) {
  return args.projected.dim(0) * args.query_heads;
}

// Two blocks a multiprocessor where there are as many, and there is memory for them.
Layout layout_of(const GsaDecode& args, int token_bytes) {
  const auto within = [&](int memory) {
    return Layout(memory, token_bytes, int(args.kept.period()), int(args.key_dim()),
                  int(args.slots()));
  };
  const Layout half = within(block_memory_bytes);
  const bool few = blocks_of(args) <= multiprocessors_of_device();
  return few || half.chunks < least_chunks ? within(most_memory_bytes) : half;
}

template <typename T>
void run(Stream& stream, const GsaDecode& args) {
  const int row = int(args.kept.rows.dim(3));
  const int period = int(args.kept.period());
  const KeptArgs<T> kept{.decode = decode_args<T>(args),
                         .row = row,
                         .rows = elements_of<T>(args.kept.rows),
                         .step = elements_of<int32_t>(args.kept.step),
                         .offset = int(args.kept.offset % period),
                         .period = period,
                         .layout = layout_of(args, row * int(sizeof(T)))};
  launch_dependent(kept_kernel<T>,
                   {.blocks = unsigned(blocks_of(args)),
                    .threads = block_threads,
                    .shared_bytes = size_t(kept.layout.end)},
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
