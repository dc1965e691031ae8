// CudaDevice as the CUDA verbs see it, on a CPU: see tests/support/cuda.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/runtime/backend.h"

namespace muond {

class CudaDevice final : public Device {
 public:
  CudaDevice() {
    info_.kind = DeviceKind::kCuda;
    info_.uuid = "GPU-emulated";
    info_.name = "emulated";
    info_.memory_bytes = kMemoryBytes;
  }
  const DeviceInfo& info() const override { return info_; }
  absl::StatusOr<std::unique_ptr<Stream>> CreateStream() override;
  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t size_bytes) override;
  absl::StatusOr<std::unique_ptr<Slab>> CreateSlab(const std::string&, size_t) override {
    return absl::UnimplementedError("slabs of an emulated device");
  }
  absl::StatusOr<std::unique_ptr<Slab>> ImportSlab(int, size_t) override {
    return absl::UnimplementedError("slabs of an emulated device");
  }
  uint64_t free_bytes() const override { return kMemoryBytes; }

  int compute_capability() const { return 80; }
  int multiprocessors() const { return 2; }
  void MakeCurrent() const {}
  absl::Status Report(cudaError_t error, absl::string_view what) {
    return error == cudaSuccess ? absl::OkStatus() : absl::InternalError(what);
  }

 private:
  static constexpr uint64_t kMemoryBytes = uint64_t{1} << 34;
  DeviceInfo info_;
};

}  // namespace muond
