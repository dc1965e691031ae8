#include "kernels/runtime/cpu/cpu_device.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include "absl/strings/str_format.h"
#include "kernels/runtime/cpu/cpu_stream.h"
#include "kernels/runtime/cpu/memfd_slab.h"
#include "kernels/runtime/shared_pages.h"

namespace muond {
namespace {

// Private zero pages, page-aligned.
class MappedBuffer final : public Buffer {
 public:
  MappedBuffer(void* data, size_t size_bytes, std::shared_ptr<MemoryAccount> account)
      : data_(data), size_bytes_(size_bytes), account_(std::move(account)) {}
  ~MappedBuffer() override {
    if (data_ != nullptr) UnmapPrivate(data_, size_bytes_);
    account_->Return(size_bytes_);
  }
  void* data() const override { return data_; }
  size_t size_bytes() const override { return size_bytes_; }

 private:
  void* const data_;
  const size_t size_bytes_;
  const std::shared_ptr<MemoryAccount> account_;
};

}  // namespace

absl::Status MemoryAccount::Take(uint64_t size_bytes, const DeviceInfo& device) {
  absl::MutexLock lock(&mutex_);
  const uint64_t free = taken_bytes_ < limit_bytes_ ? limit_bytes_ - taken_bytes_ : 0;
  if (size_bytes > free) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "%d bytes needed, %d of %d left on %s", size_bytes, free, limit_bytes_, device.uuid));
  }
  taken_bytes_ += size_bytes;
  return absl::OkStatus();
}

void MemoryAccount::TakeAnyway(uint64_t size_bytes) {
  absl::MutexLock lock(&mutex_);
  taken_bytes_ += size_bytes;
}

void MemoryAccount::Return(uint64_t size_bytes) {
  absl::MutexLock lock(&mutex_);
  taken_bytes_ -= size_bytes;
}

uint64_t MemoryAccount::free_bytes() const {
  absl::MutexLock lock(&mutex_);
  return taken_bytes_ < limit_bytes_ ? limit_bytes_ - taken_bytes_ : 0;
}

absl::StatusOr<std::unique_ptr<Stream>> CpuDevice::CreateStream() {
  try {
    return std::make_unique<CpuStream>(spin_);
  } catch (const std::system_error& error) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("no thread for a stream of %s: %s", info_.uuid, error.what()));
  }
}

absl::StatusOr<std::unique_ptr<Buffer>> CpuDevice::Allocate(size_t size_bytes) {
  if (absl::Status taken = account_->Take(size_bytes, info_); !taken.ok()) return taken;
  void* data = nullptr;
  if (size_bytes > 0) {
    data = MapPrivate(size_bytes);
    if (data == MAP_FAILED) {
      const int error = errno;
      account_->Return(size_bytes);
      return absl::ResourceExhaustedError(
          absl::StrFormat("%d bytes refused by the system, %d left on %s: %s", size_bytes,
                          free_bytes(), info_.uuid, std::strerror(error)));
    }
  }
  return std::make_unique<MappedBuffer>(data, size_bytes, account_);
}

absl::StatusOr<std::unique_ptr<Slab>> CpuDevice::CreateSlab(const std::string& label,
                                                            size_t size_bytes) {
  if (absl::Status taken = account_->Take(size_bytes, info_); !taken.ok()) return taken;
  auto slab = MemfdSlab::Create(label, size_bytes,
                                [account = account_, size_bytes] { account->Return(size_bytes); });
  if (!slab.ok()) account_->Return(size_bytes);
  return slab;
}

absl::StatusOr<std::unique_ptr<Slab>> CpuDevice::ImportSlab(int descriptor, size_t size_bytes) {
  account_->TakeAnyway(size_bytes);
  auto slab = MemfdSlab::Import(descriptor, size_bytes,
                                [account = account_, size_bytes] { account->Return(size_bytes); });
  if (!slab.ok()) account_->Return(size_bytes);
  return slab;
}

}  // namespace muond
