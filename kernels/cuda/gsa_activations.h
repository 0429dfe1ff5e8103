// What the GPU's forms of gated slot attention activate projections with,
// where no kernel does it.
#pragma once

#include "kernels/backends.h"
#include "kernels/gsa_projected.h"

namespace gsa::kernels::cuda {

inline constexpr GsaActivations gsa_activations{swish_forward, swish_backward, log_gate_forward,
                                                log_gate_backward};

}  // namespace gsa::kernels::cuda
