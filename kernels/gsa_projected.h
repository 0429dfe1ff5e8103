// The projected mode of the GSA op (kernels/gsa.h) as a composition: activated inputs in a
// workspace, and the op on them. For the forms and backends that have no kernel of their own for
// it.
#pragma once

#include "kernels/activation.h"
#include "kernels/gsa.h"

namespace gsa::kernels {

// A backend's operations of kernels/activation.h.
struct GsaActivations {
  void (*swish)(Stream&, const SwishForward&);
  void (*swish_gradient)(Stream&, const SwishBackward&);
  void (*gate)(Stream&, const LogGateForward&);
  void (*gate_gradient)(Stream&, const LogGateBackward&);
};

// Bytes of workspace that the composition puts before those of the op itself; 0 unless projected.
size_t projected_workspace(const GsaForward& args);
size_t projected_workspace(const GsaBackward& args);

// Runs a projected call with `run`, which computes calls that are not. `workspace` is
// projected_workspace bytes and then what `run` needs.
void run_projected(Stream& stream, const GsaForward& args, std::byte* workspace,
                   const GsaActivations& activations,
                   void (*run)(Stream&, const GsaForward&, std::byte*));
void run_projected(Stream& stream, const GsaBackward& args, std::byte* workspace,
                   const GsaActivations& activations,
                   void (*run)(Stream&, const GsaBackward&, std::byte*));

}  // namespace gsa::kernels
