// The one place where this folder reads the environment.
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "kernels/ops/cuda/cuda_ops.h"

namespace muond {

absl::StatusOr<CudaOpsOptions> CudaOpsOptionsFromEnvironment() {
  const char* const set = std::getenv("MUOND_CUDA_PRODUCTS");
  const absl::string_view value = set == nullptr ? "" : set;
  if (value.empty() || value == "auto") return CudaOpsOptions{};
  if (value == "library") return CudaOpsOptions{.products = ProductPath::kLibrary};
  return absl::InvalidArgumentError(
      absl::StrCat("MUOND_CUDA_PRODUCTS is '", value, "'; it may be 'auto' or 'library'"));
}

}  // namespace muond
