// CpuDevice: a share of the machine's memory with its own streams. Several live in one process, as GPUs would.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "kernels/runtime/backend.h"

namespace muond {

// Bytes taken of a device's memory. Shared with every slab and buffer, which may outlive the device.
class MemoryAccount {
 public:
  explicit MemoryAccount(uint64_t limit_bytes) : limit_bytes_(limit_bytes) {}
  absl::Status Take(uint64_t size_bytes,
                    const DeviceInfo& device);  // RESOURCE_EXHAUSTED with both counts
  void TakeAnyway(uint64_t size_bytes);         // memory that exists already: an imported slab
  void Return(uint64_t size_bytes);
  uint64_t free_bytes() const;

 private:
  const uint64_t limit_bytes_;
  mutable absl::Mutex mutex_;
  uint64_t taken_bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // may pass the limit by imports
};

class CpuDevice final : public Device {
 public:
  // `spin`: of its streams' threads, see CpuBackendOptions.
  CpuDevice(DeviceInfo info, std::chrono::nanoseconds spin)
      : info_(std::move(info)),
        spin_(spin),
        account_(std::make_shared<MemoryAccount>(info_.memory_bytes)) {}

  const DeviceInfo& info() const override { return info_; }
  absl::StatusOr<std::unique_ptr<Stream>> CreateStream() override;
  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t size_bytes) override;
  absl::StatusOr<std::unique_ptr<Slab>> CreateSlab(const std::string& label,
                                                   size_t size_bytes) override;
  absl::StatusOr<std::unique_ptr<Slab>> ImportSlab(int descriptor, size_t size_bytes) override;
  uint64_t free_bytes() const override { return account_->free_bytes(); }

 private:
  const DeviceInfo info_;
  const std::chrono::nanoseconds spin_;
  const std::shared_ptr<MemoryAccount> account_;
};

}  // namespace muond
