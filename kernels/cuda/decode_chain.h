// The operations of a decode step one after the other, each told what the next one reads first.
#pragma once

#include "kernels/cuda/read_ahead.h"
#include "kernels/decode.h"

namespace gsa::kernels::cuda {

// What an operation reads first, to be asked for by the one in front; nothing where that gains
// nothing.
NextRead first_read(const DecodeLinear& args);

// decode_linear and gsa_decode in front of what reads `next`.
void decode_linear_before(Stream& stream, const DecodeLinear& args, const NextRead& next,
                          std::byte* workspace);
void gsa_decode_before(Stream& stream, const GsaDecode& args, const NextRead& next);

}  // namespace gsa::kernels::cuda
