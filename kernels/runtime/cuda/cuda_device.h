// CudaDevice: a Device on the primary context of one GPU, shared with whatever framework runs in this process.
// Named by UUID: ordinals differ between processes (CUDA_VISIBLE_DEVICES).
// Lifetime: outlives its streams, buffers and slabs.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "kernels/runtime/backend.h"
#include "kernels/runtime/cuda/driver.h"
#include "kernels/runtime/cuda/issue_thread.h"

namespace muond {

// "GPU-…" of a device as this process counts them; makes no context.
absl::StatusOr<std::string> CudaDeviceUuid(int cuda_ordinal);

class CudaDevice final : public Device {
 public:
  // `cuda_ordinal` counts as this process's CUDA does; `ordinal` is the place in Backend::devices(). Slabs are mapped
  // for the devices in `peers` (CUDA ordinals) too, where the hardware can.
  static absl::StatusOr<std::unique_ptr<CudaDevice>> Create(int cuda_ordinal, int ordinal,
                                                            std::vector<int> peers);
  ~CudaDevice() override;
  const DeviceInfo& info() const override { return info_; }
  absl::StatusOr<std::unique_ptr<Stream>> CreateStream() override;
  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t size_bytes) override;
  absl::StatusOr<std::unique_ptr<Slab>> CreateSlab(const std::string& label,
                                                   size_t size_bytes) override;
  absl::StatusOr<std::unique_ptr<Slab>> ImportSlab(int descriptor, size_t size_bytes) override;
  uint64_t free_bytes() const override;

  int cuda_ordinal() const { return cuda_ordinal_; }
  int compute_capability() const { return compute_capability_; }  // 90 for 9.0
  int multiprocessors() const { return multiprocessors_; }
  const std::vector<int>& peers() const { return peers_; }
  const Driver& driver() const { return driver_; }
  void MakeCurrent() const { (void)cudaSetDevice(cuda_ordinal_); }

  // Done when the call returns, whatever other streams wait for.
  absl::Status ZeroNow(void* memory, size_t size_bytes);
  absl::Status CopyNow(void* destination, const void* source, size_t size_bytes);

  // The status of `error`; a sticky one poisons the device for good. OK for cudaSuccess.
  absl::Status Report(cudaError_t error, absl::string_view what);
  // DATA_LOSS with the first sticky error, once there was one. The process has to be replaced.
  absl::Status poison() const;
  // Started when first asked for: a process that only borrows streams has no such thread.
  IssueThread& issue_thread();

 private:
  CudaDevice(int cuda_ordinal, std::vector<int> peers, const Driver& driver);
  absl::StatusOr<cudaStream_t> service() ABSL_EXCLUSIVE_LOCKS_REQUIRED(service_mutex_);

  const int cuda_ordinal_;
  const std::vector<int> peers_;
  const Driver& driver_;
  DeviceInfo info_;
  int compute_capability_ = 0;
  int multiprocessors_ = 0;
  mutable absl::Mutex mutex_;
  absl::Status poison_ ABSL_GUARDED_BY(mutex_);
  absl::Mutex service_mutex_;
  cudaStream_t service_ ABSL_GUARDED_BY(service_mutex_) = nullptr;  // never waits for anything
  std::unique_ptr<IssueThread> issue_thread_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace muond
