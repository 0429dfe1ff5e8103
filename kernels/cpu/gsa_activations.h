// What the CPU's forms of gated slot attention activate projections with.
#pragma once

#include "kernels/backends.h"
#include "kernels/gsa_projected.h"

namespace gsa::kernels::cpu {

inline constexpr GsaActivations gsa_activations{swish_forward, swish_backward, log_gate_forward,
                                                log_gate_backward};

}  // namespace gsa::kernels::cpu
