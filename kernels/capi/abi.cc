#include "kernels/capi/abi.h"

#include <utility>

#include "absl/strings/str_format.h"

namespace muond::capi {
namespace {

thread_local std::string last_message;

}  // namespace

muond_kernels_status Answer(const absl::Status& status) {
  last_message = std::string(status.message());
  return static_cast<muond_kernels_status>(status.code());
}

muond_kernels_status Refuse(const std::string& message) {
  return Answer(absl::InvalidArgumentError(message));
}

absl::StatusOr<Matrix> MatrixOf(const muond_kernels_matrix& matrix, const char* what,
                                size_t index) {
  if (matrix.struct_size < sizeof(matrix) || matrix.rows < 0 || matrix.cols < 0 ||
      (matrix.rows > 1 && matrix.ld < matrix.cols) || matrix.dtype < MUOND_KERNELS_FLOAT32 ||
      matrix.dtype > MUOND_KERNELS_FLOAT16) {
    return absl::InvalidArgumentError(absl::StrFormat("%s %d: %d x %d, ld %d, dtype %d", what,
                                                      index, matrix.rows, matrix.cols, matrix.ld,
                                                      matrix.dtype));
  }
  const int64_t ld = matrix.rows > 1 ? matrix.ld : matrix.cols;
  return Matrix{matrix.data, matrix.rows, matrix.cols, ld, static_cast<DType>(matrix.dtype)};
}

}  // namespace muond::capi

extern "C" {

void muond_kernels_abi_version(int32_t* major, int32_t* minor) {
  *major = MUOND_KERNELS_ABI_MAJOR;
  *minor = MUOND_KERNELS_ABI_MINOR;
}

const char* muond_kernels_message(void) { return muond::capi::last_message.c_str(); }

muond_kernels_status muond_kernels_create(const muond_kernels_options* options,
                                          muond_kernels** engine) {
  if (options == nullptr || engine == nullptr || options->struct_size < sizeof(*options)) {
    return muond::capi::Refuse(
        "muond_kernels_create: options are missing or of an older interface");
  }
  auto made = muond::Engine::Create(options->cuda_device);
  if (!made.ok()) return muond::capi::Answer(made.status());
  *engine = new muond_kernels{*std::move(made)};
  return muond::capi::Answer(absl::OkStatus());
}

void muond_kernels_destroy(muond_kernels* engine) { delete engine; }

}  // extern "C"
