// LaunchProducts: one launch of the sm_90a product kernel over a prepared list (hopper_program.h).
// Threads: any; enqueues on `stream` of the current device.   Errors: the launch's own cudaError_t.
#pragma once

#include <cuda_runtime.h>

#include "kernels/ops/cuda/hopper_program.h"

namespace muond::hopper {

// `clusters` of two CTAs run; all must fit the device at once (dependent products spin on each other): at most half its multiprocessors.
cudaError_t LaunchProducts(cudaStream_t stream, const Launch& launch, bool bf16, int clusters);

}  // namespace muond::hopper
