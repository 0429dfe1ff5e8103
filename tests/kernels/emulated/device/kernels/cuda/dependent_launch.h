// kernels/cuda/dependent_launch.h on the emulator: the kernel in front ends some time.
#pragma once

#include "tests/kernels/emulated/emulator.h"

namespace gsa::kernels::cuda {

inline void let_next_start() {}
inline void wait_for_previous() {
  emulated::wait_for_previous();
}

}  // namespace gsa::kernels::cuda
