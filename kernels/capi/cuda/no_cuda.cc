#include "kernels/capi/engine.h"

namespace muond {

absl::StatusOr<std::unique_ptr<Engine>> CreateCudaEngine(int) {
  return absl::UnavailableError(
      "this build of muond_kernels has no CUDA (configure with MUOND_CUDA=ON)");
}

}  // namespace muond
