// A decode step of 64 sequences in one kernel, as decode_step.cu asks for it.
#pragma once

#include <span>
#include <variant>

#include "kernels/decode.h"

namespace gsa::kernels::cuda::decode {

using AnyOperation = std::variant<DecodeLinear, GsaDecode>;
using Operations = std::span<const AnyOperation>;

// Runs the operations of 64 sequences in one kernel, where it takes all of them or all but the last
// (a head has more outputs than a block can hold sums of), and returns how many that are; or 0. The
// workspace holds the kernel's counter.
size_t run_many(Stream& stream, Operations operations, std::byte* workspace);

// Clears memory for a kernel that comes next on the stream and begins to copy weights meanwhile.
void clear_before_step(Stream& stream, std::byte* memory, size_t bytes);

}  // namespace gsa::kernels::cuda::decode
