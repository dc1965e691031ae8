// OpenClientDevice where CUDA was compiled in.
#include <cuda_runtime_api.h>
#include <unistd.h>

#include <cerrno>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/core/device.h"
#include "kernels/runtime/cuda/cuda_device.h"
#include "kernels/runtime/cuda/cuda_error.h"
#include "kernels/runtime/cuda/cuda_stream.h"

namespace muond {
namespace {

// The framework's current device is the thread's: it must not notice us.
class KeepCurrentDevice {
 public:
  KeepCurrentDevice() { (void)cudaGetDevice(&before_); }
  ~KeepCurrentDevice() { (void)cudaSetDevice(before_); }
  KeepCurrentDevice(const KeepCurrentDevice&) = delete;
  KeepCurrentDevice& operator=(const KeepCurrentDevice&) = delete;

 private:
  int before_ = 0;
};

class CudaClientDevice final : public ClientDevice,
                               public std::enable_shared_from_this<CudaClientDevice> {
 public:
  explicit CudaClientDevice(std::unique_ptr<CudaDevice> device) : device_(std::move(device)) {}

  absl::StatusOr<std::shared_ptr<Mapping>> Map(int fd, uint64_t size_bytes) override {
    if (size_bytes == 0) return Mapping::Foreign(nullptr, 0, nullptr);
    const KeepCurrentDevice keep;
    const int own = ::dup(fd);
    if (own < 0) return absl::ErrnoToStatus(errno, "duplicating a slab's descriptor");
    auto slab = device_->ImportSlab(own, size_bytes);
    if (!slab.ok()) return slab.status();
    char* const data = static_cast<char*>((*slab)->data());
    // The slab goes first, then the device that it was mapped with.
    auto owner = std::make_shared<Held>(Held{shared_from_this(), *std::move(slab)});
    return Mapping::Foreign(data, size_bytes, std::move(owner));
  }

  absl::Status Copy(StreamHandle handle, void* to, const void* from, uint64_t size_bytes) override {
    const KeepCurrentDevice keep;
    Stream& stream = Borrowed(handle);
    stream.Copy(to, from, size_bytes);
    return stream.health();
  }

  absl::Status WriteCell(StreamHandle handle, Cell* cell, uint64_t value) override {
    const KeepCurrentDevice keep;
    Stream& stream = Borrowed(handle);
    stream.WriteCell(cell, value);
    return stream.health();
  }

  absl::Status WaitCell(StreamHandle handle, const Cell* cell, uint64_t at_least) override {
    const KeepCurrentDevice keep;
    Stream& stream = Borrowed(handle);
    stream.WaitCell(cell, at_least);
    return stream.health();
  }

  void Synchronize() override {
    const KeepCurrentDevice keep;
    device_->MakeCurrent();
    if (cudaDeviceSynchronize() != cudaSuccess) (void)cudaGetLastError();
  }

 private:
  struct Held {
    std::shared_ptr<CudaClientDevice> device;
    std::unique_ptr<Slab> slab;
  };

  Stream& Borrowed(StreamHandle handle) {
    std::unique_ptr<Stream>& stream = streams_[handle];
    if (stream == nullptr) {
      stream = BorrowStream(*device_, reinterpret_cast<cudaStream_t>(handle));
    }
    return *stream;
  }

  std::unique_ptr<CudaDevice> device_;
  std::map<StreamHandle, std::unique_ptr<Stream>> streams_;  // a framework has few, and keeps them
};

}  // namespace

absl::StatusOr<std::shared_ptr<ClientDevice>> OpenClientDevice(const std::string& uuid) {
  const KeepCurrentDevice keep;
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) {
    return CudaStatus(error, "counting CUDA devices");
  }
  std::string visible;
  for (int ordinal = 0; ordinal < count; ++ordinal) {
    absl::StatusOr<std::string> name = CudaDeviceUuid(ordinal);
    if (!name.ok()) return name.status();
    if (*name != uuid) {
      absl::StrAppend(&visible, visible.empty() ? "" : ", ", *name);
      continue;
    }
    auto device = CudaDevice::Create(ordinal, ordinal, {});
    if (!device.ok()) return device.status();
    return std::make_shared<CudaClientDevice>(*std::move(device));
  }
  return absl::NotFoundError(
      absl::StrCat("no visible CUDA device is ", uuid, "; there are ", visible));
}

}  // namespace muond
