#include "kernels/runtime/cuda/cuda_device.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/runtime/cuda/cuda_error.h"
#include "kernels/runtime/cuda/cuda_slab.h"
#include "kernels/runtime/cuda/cuda_stream.h"

namespace muond {
namespace {

std::string UuidName(const cudaUUID_t& uuid) {
  std::string name = "GPU-";
  for (int i = 0; i < 16; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) name += '-';
    absl::StrAppendFormat(&name, "%02x", static_cast<unsigned char>(uuid.bytes[i]));
  }
  return name;
}

// Hopper code is built for sm_90a: its instructions exist on no other chip, and its bits are its own.
std::string ArchitectureName(int major, int minor) {
  return absl::StrCat("sm_", major, minor, major == 9 && minor == 0 ? "a" : "");
}

class CudaBuffer final : public Buffer {
 public:
  CudaBuffer(const CudaDevice& device, void* data, size_t size_bytes)
      : device_(device), data_(data), size_bytes_(size_bytes) {}
  ~CudaBuffer() override {
    if (data_ == nullptr) return;
    device_.MakeCurrent();
    (void)cudaFree(data_);
  }
  void* data() const override { return data_; }
  size_t size_bytes() const override { return size_bytes_; }

 private:
  const CudaDevice& device_;
  void* const data_;
  const size_t size_bytes_;
};

}  // namespace

absl::StatusOr<std::string> CudaDeviceUuid(int cuda_ordinal) {
  cudaDeviceProp properties;
  if (const cudaError_t error = cudaGetDeviceProperties(&properties, cuda_ordinal);
      error != cudaSuccess) {
    return CudaStatus(error, absl::StrCat("CUDA device ", cuda_ordinal));
  }
  return UuidName(properties.uuid);
}

CudaDevice::CudaDevice(int cuda_ordinal, std::vector<int> peers, const Driver& driver)
    : cuda_ordinal_(cuda_ordinal), peers_(std::move(peers)), driver_(driver) {}

absl::StatusOr<std::unique_ptr<CudaDevice>> CudaDevice::Create(int cuda_ordinal, int ordinal,
                                                               std::vector<int> peers) {
  cudaDeviceProp properties;
  if (const cudaError_t error = cudaGetDeviceProperties(&properties, cuda_ordinal);
      error != cudaSuccess) {
    return CudaStatus(error, absl::StrCat("CUDA device ", cuda_ordinal));
  }
  absl::StatusOr<const Driver*> driver = LoadDriver();
  if (!driver.ok()) return driver.status();
  cudaError_t error = cudaSetDevice(cuda_ordinal);
  if (error == cudaSuccess)
    error = cudaFree(nullptr);  // makes the context: a broken device fails here
  if (error != cudaSuccess) {
    return CudaStatus(error, absl::StrCat("starting CUDA device ", cuda_ordinal));
  }
  std::unique_ptr<CudaDevice> device(new CudaDevice(cuda_ordinal, std::move(peers), **driver));
  device->compute_capability_ = properties.major * 10 + properties.minor;
  device->multiprocessors_ = properties.multiProcessorCount;
  device->info_ = {.kind = DeviceKind::kCuda,
                   .ordinal = ordinal,
                   .uuid = UuidName(properties.uuid),
                   .name = properties.name,
                   .architecture = ArchitectureName(properties.major, properties.minor),
                   .memory_bytes = properties.totalGlobalMem};
  return device;
}

absl::StatusOr<std::unique_ptr<Stream>> CudaDevice::CreateStream() {
  return CreateOwnedStream(*this);
}

absl::StatusOr<std::unique_ptr<Buffer>> CudaDevice::Allocate(size_t size_bytes) {
  if (absl::Status status = poison(); !status.ok()) return status;
  if (size_bytes == 0) return std::make_unique<CudaBuffer>(*this, nullptr, 0);
  MakeCurrent();
  void* data = nullptr;
  const cudaError_t error = cudaMalloc(&data, size_bytes);
  if (error == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    return absl::ResourceExhaustedError(
        absl::StrFormat("buffer needs %d bytes, %d left on device %d (%s)", size_bytes,
                        free_bytes(), info_.ordinal, info_.uuid));
  }
  if (error != cudaSuccess) return Report(error, "allocating a buffer");
  auto buffer = std::make_unique<CudaBuffer>(*this, data, size_bytes);
  if (absl::Status status = ZeroNow(data, size_bytes); !status.ok()) return status;
  return buffer;
}

absl::StatusOr<std::unique_ptr<Slab>> CudaDevice::CreateSlab(const std::string& label,
                                                             size_t size_bytes) {
  return CreateCudaSlab(*this, label, size_bytes);
}

absl::StatusOr<std::unique_ptr<Slab>> CudaDevice::ImportSlab(int descriptor, size_t size_bytes) {
  return ImportCudaSlab(*this, descriptor, size_bytes);
}

uint64_t CudaDevice::free_bytes() const {
  MakeCurrent();
  size_t free = 0, total = 0;
  if (cudaMemGetInfo(&free, &total) != cudaSuccess) {
    (void)cudaGetLastError();
    return 0;
  }
  return free;
}

CudaDevice::~CudaDevice() {
  absl::MutexLock lock(&service_mutex_);
  if (service_ == nullptr) return;
  MakeCurrent();
  (void)cudaStreamDestroy(service_);
}

absl::StatusOr<cudaStream_t> CudaDevice::service() {
  MakeCurrent();
  if (service_ == nullptr) {
    const cudaError_t error = cudaStreamCreateWithFlags(&service_, cudaStreamNonBlocking);
    if (error != cudaSuccess) return Report(error, "creating a stream");
  }
  return service_;
}

absl::Status CudaDevice::ZeroNow(void* memory, size_t size_bytes) {
  absl::MutexLock lock(&service_mutex_);
  absl::StatusOr<cudaStream_t> stream = service();
  if (!stream.ok()) return stream.status();
  cudaError_t error = cudaMemsetAsync(memory, 0, size_bytes, *stream);
  if (error == cudaSuccess) error = cudaStreamSynchronize(*stream);
  return Report(error, "zeroing memory");
}

absl::Status CudaDevice::CopyNow(void* destination, const void* source, size_t size_bytes) {
  absl::MutexLock lock(&service_mutex_);
  absl::StatusOr<cudaStream_t> stream = service();
  if (!stream.ok()) return stream.status();
  cudaError_t error = cudaMemcpyAsync(destination, source, size_bytes, cudaMemcpyDefault, *stream);
  if (error == cudaSuccess) error = cudaStreamSynchronize(*stream);
  return Report(error, "copying");
}

absl::Status CudaDevice::Report(cudaError_t error, absl::string_view what) {
  if (error == cudaSuccess) return absl::OkStatus();
  const absl::Status status =
      CudaStatus(error, absl::StrCat(what, " on device ", info_.ordinal, " (", info_.uuid, ")"));
  if (IsSticky(error)) {
    absl::MutexLock lock(&mutex_);
    if (poison_.ok()) poison_ = status;
  }
  return status;
}

absl::Status CudaDevice::poison() const {
  absl::MutexLock lock(&mutex_);
  return poison_;
}

IssueThread& CudaDevice::issue_thread() {
  absl::MutexLock lock(&mutex_);
  if (issue_thread_ == nullptr) issue_thread_ = std::make_unique<IssueThread>(cuda_ordinal_);
  return *issue_thread_;
}

}  // namespace muond
