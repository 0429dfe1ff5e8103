// kernels/cuda/cluster.h on the emulator, as far as kernels there use it.
#pragma once

#include "kernels/cuda/async_copy.h"
