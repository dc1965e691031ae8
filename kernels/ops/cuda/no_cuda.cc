// CreateCudaOps where CUDA was not compiled in: no device of this build can reach it.
#include "kernels/ops/ops.h"

namespace muond {

absl::StatusOr<std::unique_ptr<Ops>> CreateCudaOps(Device&) {
  return absl::UnavailableError("this build has no CUDA (configure with MUOND_CUDA=ON)");
}

}  // namespace muond
