// A token of gated slot attention whose states are not written in every step (KeptTokens).
#pragma once

#include <cstddef>

#include "kernels/decode.h"

namespace gsa::kernels::cpu {

// Bytes that the step needs; they follow from shapes alone.
size_t gsa_decode_kept_workspace(const GsaDecode& args);
void gsa_decode_kept(const GsaDecode& args, std::byte* workspace);

}  // namespace gsa::kernels::cpu
