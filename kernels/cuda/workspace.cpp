// The workspaces of the CUDA operations: plain C++, compiled in every build, so that `gsa plan` can
// say on any machine what a GPU run needs.
#include "kernels/backends.h"

namespace gsa::kernels::cuda {

size_t embedding_backward_workspace(const EmbeddingBackward& /*args*/) {
  return 0;
}
size_t rms_norm_backward_workspace(const RmsNormBackward& /*args*/) {
  return 0;
}
size_t swish_rms_norm_backward_workspace(const SwishRmsNormBackward& /*args*/) {
  return 0;
}
size_t matmul_workspace(const Matmul& /*args*/) {
  return 0;
}
size_t gsa_chunked_forward_workspace(const GsaForward& /*args*/) {
  return 0;
}
size_t gsa_chunked_backward_workspace(const GsaBackward& /*args*/) {
  return 0;
}
size_t gsa_recurrent_forward_workspace(const GsaForward& /*args*/) {
  return 0;
}
size_t gsa_recurrent_backward_workspace(const GsaBackward& /*args*/) {
  return 0;
}
size_t sum_losses_workspace(const SumLosses& /*args*/) {
  return 0;
}
size_t squared_norm_workspace(const SquaredNorm& /*args*/) {
  return 0;
}
size_t gsa_chunked_saved_bytes(const GsaForward& /*args*/) {
  return 0;
}

}  // namespace gsa::kernels::cuda
