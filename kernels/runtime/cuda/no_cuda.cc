// CreateCudaBackend where CUDA was not compiled in.
#include "kernels/runtime/backend.h"

namespace muond {

absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend() {
  return absl::UnavailableError("this build has no CUDA (configure with MUOND_CUDA=ON)");
}

}  // namespace muond
