#include <cuda_runtime_api.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/capi/engine.h"
#include "kernels/ops/cuda/cuda_ops.h"
#include "kernels/runtime/cuda/cuda_device.h"
#include "kernels/runtime/cuda/cuda_stream.h"

namespace muond {
namespace {

class CudaEngine final : public Engine {
 public:
  CudaEngine(std::unique_ptr<CudaDevice> device, std::unique_ptr<Ops> ops)
      : device_(std::move(device)), ops_(std::move(ops)) {}
  Ops& ops() override { return *ops_; }
  std::unique_ptr<Stream> StreamFor(void* cuda_stream) override {
    return BorrowStream(*device_, static_cast<cudaStream_t>(cuda_stream));
  }
  void Put(Stream& stream, void* destination, const void* bytes, size_t size_bytes) override {
    PutBytes(stream, destination, bytes, size_bytes);
  }
  absl::Status Finish(Stream& stream) override { return stream.health(); }

 private:
  std::unique_ptr<CudaDevice> device_;
  std::unique_ptr<Ops> ops_;
};

}  // namespace

// Only the device asked for gets a context: a process of a job with eight GPUs must not open eight.
absl::StatusOr<std::unique_ptr<Engine>> CreateCudaEngine(int cuda_device) {
  int current = 0;
  const bool restore = cudaGetDevice(&current) == cudaSuccess;
  auto device = CudaDevice::Create(cuda_device, 0, {});
  if (!device.ok()) {
    (void)cudaGetLastError();
    return absl::UnavailableError(device.status().message());
  }
  absl::StatusOr<CudaOpsOptions> options = CudaOpsOptionsFromEnvironment();
  if (!options.ok()) return options.status();
  absl::StatusOr<std::unique_ptr<Ops>> ops = CreateCudaOpsWith(**device, *options);
  if (!ops.ok()) return ops.status();
  if (restore) (void)cudaSetDevice(current);
  return std::make_unique<CudaEngine>(*std::move(device), *std::move(ops));
}

}  // namespace muond
