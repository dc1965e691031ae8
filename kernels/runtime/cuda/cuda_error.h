// CUDA errors become absl::Status here and nowhere else.
#pragma once

#include <cuda_runtime_api.h>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace muond {

// OK for cudaSuccess. RESOURCE_EXHAUSTED for a full device, UNAVAILABLE where there is no driver or device,
// DATA_LOSS for an error that ends the context (see IsSticky), INTERNAL otherwise. Clears the thread's last error.
absl::Status CudaStatus(cudaError_t error, absl::string_view what);

// True when the error stays with the context: every later call in this process fails with it, so the process has
// to be replaced. (Illegal addresses, failed launches, uncorrectable ECC errors and their like.)
bool IsSticky(cudaError_t error);

}  // namespace muond
