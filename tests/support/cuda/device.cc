// An emulated device for the CUDA verbs: host memory, a stream that runs at once, no products.
#include <cuda_runtime_api.h>

#include <cstdlib>
#include <cstring>
#include <utility>

#include "kernels/ops/cuda/library_products.h"
#include "kernels/ops/cuda/products.h"
#include "kernels/ops/cuda/scratch_pool.h"
#include "kernels/runtime/cuda/cuda_device.h"
#include "kernels/runtime/cuda/cuda_stream.h"
#include "kernels/runtime/cuda/host_registry.h"

namespace muond {
namespace {

class HostMemory final : public Buffer {
 public:
  explicit HostMemory(size_t size_bytes)
      : size_bytes_(size_bytes), data_(std::aligned_alloc(512, (size_bytes / 512 + 1) * 512)) {
    std::memset(data_, 0, size_bytes);
  }
  ~HostMemory() override { std::free(data_); }
  void* data() const override { return data_; }
  size_t size_bytes() const override { return size_bytes_; }

 private:
  const size_t size_bytes_;
  void* const data_;
};

class ImmediateStream final : public CudaStream {
 public:
  void Enqueue(const char* what, Call call) override {
    if (status_.ok() && call(handle()) != cudaSuccess) Fail(absl::InternalError(what));
  }
  bool issues_at_once() const override { return true; }
  void Fail(absl::Status status) override {
    if (status_.ok()) status_ = std::move(status);
  }
  cudaStream_t handle() const override {
    return reinterpret_cast<cudaStream_t>(const_cast<ImmediateStream*>(this));
  }
  void Host(absl::AnyInvocable<void()> work) override { work(); }
  void WaitCell(const Cell*, uint64_t) override {}
  void WriteCell(Cell* cell, uint64_t value) override { cell->store(value); }
  void Copy(void* destination, const void* source, size_t size_bytes) override {
    std::memcpy(destination, source, size_bytes);
  }
  void Zero(void* destination, size_t size_bytes) override {
    std::memset(destination, 0, size_bytes);
  }
  absl::Status Synchronize() override { return status_; }
  absl::Status health() const override { return status_; }

 private:
  absl::Status status_;
};

class EmulatedBackend final : public Backend {
 public:
  EmulatedBackend() { devices_.push_back(std::make_unique<CudaDevice>()); }
  const std::vector<std::unique_ptr<Device>>& devices() const override { return devices_; }

 private:
  std::vector<std::unique_ptr<Device>> devices_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Stream>> CudaDevice::CreateStream() {
  return std::make_unique<ImmediateStream>();
}
absl::StatusOr<std::unique_ptr<Buffer>> CudaDevice::Allocate(size_t size_bytes) {
  return std::make_unique<HostMemory>(size_bytes);
}
absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend() {
  return std::make_unique<EmulatedBackend>();
}
absl::StatusOr<void*> DevicePointerOf(const void* memory, size_t) {
  return const_cast<void*>(memory);
}

ScratchPool::~ScratchPool() {
  absl::MutexLock lock(&mutex_);
  for (auto& [stream, scratch] : scratches_) std::free(scratch);
}
absl::StatusOr<elementwise::Scratch*> ScratchPool::For(cudaStream_t stream) {
  absl::MutexLock lock(&mutex_);
  elementwise::Scratch*& scratch = scratches_[stream];
  if (scratch == nullptr)
    scratch = static_cast<elementwise::Scratch*>(std::calloc(1, sizeof(elementwise::Scratch)));
  return scratch;
}
elementwise::Scratch* ScratchPool::Take(cudaStream_t) { return nullptr; }

absl::StatusOr<std::unique_ptr<GroupedProducts>> GroupedProducts::Create() {
  return absl::UnimplementedError("products of an emulated device");
}
struct LibraryProducts::Plan {};
LibraryProducts::LibraryProducts(CudaDevice& device) : device_(device) {}
LibraryProducts::~LibraryProducts() = default;
absl::Status LibraryProducts::Enqueue(CudaStream&, absl::Span<const Product>,
                                      elementwise::Scratch*) {
  return absl::UnimplementedError("products of an emulated device");
}

}  // namespace muond

// What the host code calls of CUDA besides launches.
extern "C" cudaError_t cudaFree(void*) { return cudaSuccess; }
extern "C" cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
extern "C" cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) {
  return cudaSuccess;
}
