#include "kernels/runtime/cuda/cuda_slab.h"

#include <unistd.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/runtime/cuda/cuda_device.h"
#include "kernels/runtime/cuda/cuda_error.h"
#include "kernels/runtime/cuda/driver.h"

namespace muond {
namespace {

CUmemAllocationProp PropertiesOf(const CudaDevice& device) {
  CUmemAllocationProp properties = {};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  properties.location.id = device.cuda_ordinal();
  properties.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  return properties;
}

// Behind the slab's bytes lies its size: the driver tells no importer how large a handle is, and sizes are rounded.
struct Trailer {
  uint64_t magic;
  uint64_t size_bytes;
};
constexpr uint64_t kMagic = 0x6d756f6e64736c62;  // "muondslb"

// Owns, piece by piece, what a mapping is made of: whatever was reached is undone in reverse.
class CudaSlab final : public Slab {
 public:
  CudaSlab(CudaDevice& device, size_t size_bytes, size_t mapped_bytes)
      : device_(device), size_bytes_(size_bytes), mapped_bytes_(mapped_bytes) {}
  ~CudaSlab() override {
    const Driver& driver = device_.driver();
    device_.MakeCurrent();
    if (mapped_) (void)driver.mem_unmap(address_, mapped_bytes_);
    if (address_ != 0) (void)driver.address_free(address_, mapped_bytes_);
    if (handle_ != 0) (void)driver.mem_release(handle_);
    if (descriptor_ >= 0) close(descriptor_);
    (void)cudaGetLastError();
  }

  void* data() const override { return reinterpret_cast<void*>(address_); }
  size_t size_bytes() const override { return size_bytes_; }
  int descriptor() const override { return descriptor_; }

  void* trailer() const {
    return reinterpret_cast<void*>(address_ + mapped_bytes_ - sizeof(Trailer));
  }

  cudaError_t Create() {
    const CUmemAllocationProp properties = PropertiesOf(device_);
    return ToRuntimeError(device_.driver().mem_create(&handle_, mapped_bytes_, &properties, 0));
  }
  cudaError_t Import(int descriptor) {
    return ToRuntimeError(device_.driver().import_handle(
        &handle_, reinterpret_cast<void*>(static_cast<intptr_t>(descriptor)),
        CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
  }
  cudaError_t Export() {
    return ToRuntimeError(device_.driver().export_handle(
        &descriptor_, handle_, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
  }
  cudaError_t Map() {
    const Driver& driver = device_.driver();
    CUresult result = driver.address_reserve(&address_, mapped_bytes_, 0, 0, 0);
    if (result != CUDA_SUCCESS) {
      address_ = 0;
      return ToRuntimeError(result);
    }
    result = driver.mem_map(address_, mapped_bytes_, 0, handle_, 0);
    if (result != CUDA_SUCCESS) return ToRuntimeError(result);
    mapped_ = true;
    std::vector<CUmemAccessDesc> access;
    auto allow = [&access](int ordinal) {
      CUmemAccessDesc entry = {};
      entry.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
      entry.location.id = ordinal;
      entry.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
      access.push_back(entry);
    };
    allow(device_.cuda_ordinal());
    for (int peer : device_.peers()) allow(peer);
    return ToRuntimeError(driver.set_access(address_, mapped_bytes_, access.data(), access.size()));
  }

 private:
  CudaDevice& device_;
  const size_t size_bytes_;
  const size_t mapped_bytes_;
  CUmemGenericAllocationHandle handle_ = 0;
  CUdeviceptr address_ = 0;
  bool mapped_ = false;
  int descriptor_ = -1;
};

absl::StatusOr<size_t> MappedBytes(CudaDevice& device, size_t size_bytes) {
  if (absl::Status poison = device.poison(); !poison.ok()) return poison;
  if (size_bytes == 0) return absl::InvalidArgumentError("a slab is said to have 0 bytes");
  device.MakeCurrent();
  const CUmemAllocationProp properties = PropertiesOf(device);
  size_t granularity = 0;
  const CUresult result =
      device.driver().mem_granularity(&granularity, &properties, CU_MEM_ALLOC_GRANULARITY_MINIMUM);
  if (result != CUDA_SUCCESS) {
    return device.Report(ToRuntimeError(result), "asking for the slab granularity");
  }
  if (size_bytes > INT64_MAX - granularity - sizeof(Trailer)) {
    return absl::InvalidArgumentError(absl::StrFormat("a slab of %d bytes", size_bytes));
  }
  return (size_bytes + sizeof(Trailer) + granularity - 1) / granularity * granularity;
}

absl::StatusOr<std::unique_ptr<Slab>> Import(CudaDevice& device, int descriptor,
                                             size_t size_bytes) {
  if (descriptor < 0) return absl::InvalidArgumentError(absl::StrCat("descriptor ", descriptor));
  absl::StatusOr<size_t> mapped_bytes = MappedBytes(device, size_bytes);
  if (!mapped_bytes.ok()) return mapped_bytes.status();
  auto slab = std::make_unique<CudaSlab>(device, size_bytes, *mapped_bytes);
  cudaError_t error = slab->Import(descriptor);
  if (error != cudaSuccess) {
    return device.Report(error, absl::StrFormat("importing a slab of %d bytes from descriptor %d",
                                                size_bytes, descriptor));
  }
  error = slab->Map();
  if (error != cudaSuccess) {
    const absl::Status status = device.Report(error, "mapping it");
    if (!device.poison().ok()) return status;
    return absl::InvalidArgumentError(absl::StrFormat(
        "an imported slab is said to have %d bytes, which its memory does not hold: %s", size_bytes,
        status.message()));
  }
  Trailer trailer = {};
  if (absl::Status status = device.CopyNow(&trailer, slab->trailer(), sizeof(trailer));
      !status.ok())
    return status;
  if (trailer.magic != kMagic || trailer.size_bytes != size_bytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("an imported slab is said to have %d bytes, it has %d", size_bytes,
                        trailer.magic == kMagic ? trailer.size_bytes : 0));
  }
  return slab;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Slab>> CreateCudaSlab(CudaDevice& device, const std::string& label,
                                                     size_t size_bytes) {
  absl::StatusOr<size_t> mapped_bytes = MappedBytes(device, size_bytes);
  if (!mapped_bytes.ok()) return mapped_bytes.status();
  auto slab = std::make_unique<CudaSlab>(device, size_bytes, *mapped_bytes);
  cudaError_t error = slab->Create();
  if (error == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    return absl::ResourceExhaustedError(
        absl::StrFormat("slab '%s' needs %d bytes, %d left on device %d (%s)", label, size_bytes,
                        device.free_bytes(), device.info().ordinal, device.info().uuid));
  }
  if (error == cudaSuccess) error = slab->Map();
  if (error == cudaSuccess) error = slab->Export();
  if (error != cudaSuccess) {
    return device.Report(error, absl::StrFormat("slab '%s' of %d bytes", label, size_bytes));
  }
  const Trailer trailer = {kMagic, size_bytes};
  absl::Status status = device.ZeroNow(slab->data(), *mapped_bytes);
  if (status.ok()) status = device.CopyNow(slab->trailer(), &trailer, sizeof(trailer));
  if (!status.ok()) return status;
  return slab;
}

absl::StatusOr<std::unique_ptr<Slab>> ImportCudaSlab(CudaDevice& device, int descriptor,
                                                     size_t size_bytes) {
  absl::StatusOr<std::unique_ptr<Slab>> slab = Import(device, descriptor, size_bytes);
  if (descriptor >= 0) close(descriptor);
  return slab;
}

}  // namespace muond
