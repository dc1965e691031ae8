#include "kernels/ops/cuda/cublaslt.h"

#include <dlfcn.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace muond {
namespace {

// This build's own major version: structures differ between majors.
constexpr char kLibrary[] = "libcublasLt.so.";

absl::StatusOr<const CublasLt*> Load() {
  static CublasLt library;
  const std::string name = absl::StrCat(kLibrary, CUBLAS_VER_MAJOR);
  void* const handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) return absl::UnavailableError(absl::StrCat("cuBLASLt: ", dlerror()));
  const char* missing = nullptr;
  auto find = [&](const char* symbol, auto* out) {
    *out = reinterpret_cast<std::remove_reference_t<decltype(*out)>>(dlsym(handle, symbol));
    if (*out == nullptr) missing = symbol;
  };
  find("cublasLtCreate", &library.create);
  find("cublasLtDestroy", &library.destroy);
  find("cublasLtMatmul", &library.matmul);
  find("cublasLtMatmulDescCreate", &library.desc_create);
  find("cublasLtMatmulDescDestroy", &library.desc_destroy);
  find("cublasLtMatmulDescSetAttribute", &library.desc_set);
  find("cublasLtMatrixLayoutCreate", &library.layout_create);
  find("cublasLtMatrixLayoutDestroy", &library.layout_destroy);
  find("cublasLtMatrixLayoutSetAttribute", &library.layout_set);
  find("cublasLtMatmulPreferenceCreate", &library.preference_create);
  find("cublasLtMatmulPreferenceDestroy", &library.preference_destroy);
  find("cublasLtMatmulPreferenceSetAttribute", &library.preference_set);
  find("cublasLtMatmulAlgoGetHeuristic", &library.heuristic);
  find("cublasLtGetStatusString", &library.status_string);
  if (missing != nullptr) return absl::UnavailableError(absl::StrCat(name, " has no ", missing));
  return &library;
}

}  // namespace

absl::StatusOr<const CublasLt*> LoadCublasLt() {
  static const absl::StatusOr<const CublasLt*>* const loaded =
      new absl::StatusOr<const CublasLt*>(Load());
  return *loaded;
}

absl::Status CublasStatus(const CublasLt& library, cublasStatus_t status, absl::string_view what) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return absl::InternalError(
      absl::StrFormat("%s: cuBLASLt error %d (%s)", what, status, library.status_string(status)));
}

}  // namespace muond
