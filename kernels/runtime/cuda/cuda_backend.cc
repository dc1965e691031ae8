// CreateCudaBackend where CUDA was compiled in.
#include <cuda_runtime_api.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/runtime/backend.h"
#include "kernels/runtime/cuda/cuda_device.h"
#include "kernels/runtime/cuda/cuda_error.h"

namespace muond {
namespace {

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(std::vector<std::unique_ptr<Device>> devices)
      : devices_(std::move(devices)) {}
  const std::vector<std::unique_ptr<Device>>& devices() const override { return devices_; }

 private:
  std::vector<std::unique_ptr<Device>> devices_;
};

// Buffers of one device become reachable from the others; slabs get their own access lists.
std::vector<int> EnablePeers(int ordinal, int count) {
  std::vector<int> peers;
  (void)cudaSetDevice(ordinal);
  for (int other = 0; other < count; ++other) {
    int can = 0;
    if (other == ordinal || cudaDeviceCanAccessPeer(&can, ordinal, other) != cudaSuccess || !can) {
      continue;
    }
    const cudaError_t error = cudaDeviceEnablePeerAccess(other, 0);
    if (error == cudaSuccess || error == cudaErrorPeerAccessAlreadyEnabled) peers.push_back(other);
    (void)cudaGetLastError();
  }
  return peers;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend() {
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) {
    (void)cudaGetLastError();
    return absl::UnavailableError(absl::StrCat("no usable CUDA device: ", cudaGetErrorName(error),
                                               ": ", cudaGetErrorString(error)));
  }
  if (count == 0) return absl::UnavailableError("no usable CUDA device: the driver lists none");
  std::vector<std::unique_ptr<Device>> devices;
  for (int i = 0; i < count; ++i) {
    auto device = CudaDevice::Create(i, i, EnablePeers(i, count));
    if (!device.ok()) {
      return absl::UnavailableError(
          absl::StrCat("CUDA device ", i, " of ", count, ": ", device.status().message()));
    }
    devices.push_back(*std::move(device));
  }
  return std::make_unique<CudaBackend>(std::move(devices));
}

}  // namespace muond
