#include "kernels/runtime/cuda/cuda_error.h"

#include "absl/strings/str_format.h"

namespace muond {

bool IsSticky(cudaError_t error) {
  switch (error) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorLaunchFailure:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorAssert:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorTensorMemoryLeak:
    case cudaErrorContained:
    case cudaErrorExternalDevice:
    case cudaErrorMpsClientTerminated:
    case cudaErrorContextIsDestroyed:
      return true;
    default:
      return false;
  }
}

absl::Status CudaStatus(cudaError_t error, absl::string_view what) {
  if (error == cudaSuccess) return absl::OkStatus();
  if (!IsSticky(error)) (void)cudaGetLastError();
  absl::StatusCode code = absl::StatusCode::kInternal;
  if (IsSticky(error)) {
    code = absl::StatusCode::kDataLoss;
  } else if (error == cudaErrorMemoryAllocation) {
    code = absl::StatusCode::kResourceExhausted;
  } else if (error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver ||
             error == cudaErrorSystemDriverMismatch || error == cudaErrorDevicesUnavailable ||
             error == cudaErrorSystemNotReady || error == cudaErrorInitializationError ||
             error == cudaErrorCompatNotSupportedOnDevice ||
             error == cudaErrorDeviceUninitialized) {
    code = absl::StatusCode::kUnavailable;
  } else if (error == cudaErrorInvalidValue || error == cudaErrorInvalidResourceHandle) {
    code = absl::StatusCode::kInvalidArgument;
  }
  return absl::Status(code, absl::StrFormat("%s: %s (%d): %s", what, cudaGetErrorName(error), error,
                                            cudaGetErrorString(error)));
}

}  // namespace muond
