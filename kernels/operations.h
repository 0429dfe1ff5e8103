// All operations.
#pragma once

#include "kernels/activation.h"
#include "kernels/checksum.h"
#include "kernels/cross_entropy.h"
#include "kernels/decode.h"
#include "kernels/embedding.h"
#include "kernels/glu.h"
#include "kernels/gsa.h"
#include "kernels/matmul.h"
#include "kernels/normal.h"
#include "kernels/optimizer.h"
#include "kernels/rms_norm.h"
#include "kernels/sampling.h"
