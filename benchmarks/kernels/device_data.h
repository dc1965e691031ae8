// Random inputs made on the device.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/ops/ops.h"

namespace muond::bench {

// N(0, 1) elements, a function of `seed` and the place; columns from cols to ld stay as they are.
void FillNormal(cudaStream_t stream, const Matrix& matrix, uint64_t seed);

}  // namespace muond::bench
