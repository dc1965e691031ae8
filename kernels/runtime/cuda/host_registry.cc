#include "kernels/runtime/cuda/host_registry.h"

#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "kernels/runtime/cuda/cuda_error.h"
#include "kernels/runtime/cuda/driver.h"
#include "kernels/runtime/host_pages.h"

namespace muond {
namespace {

constexpr uintptr_t kPageBytes = 4096;

struct Registry {
  absl::Mutex mutex;
  // Page address -> its device address. Only pages that this process pinned here.
  std::map<uintptr_t, uintptr_t> pages ABSL_GUARDED_BY(mutex);
};

Registry& TheRegistry() {
  static Registry* const registry = new Registry;
  return *registry;
}

void Unpin(void* data, size_t size_bytes) {
  Registry& registry = TheRegistry();
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data);
  absl::MutexLock lock(&registry.mutex);
  auto page = registry.pages.lower_bound(begin - begin % kPageBytes);
  while (page != registry.pages.end() && page->first < begin + size_bytes) {
    if (cudaHostUnregister(reinterpret_cast<void*>(page->first)) != cudaSuccess) {
      (void)cudaGetLastError();  // a poisoned context: the page stays pinned until the process ends
    }
    page = registry.pages.erase(page);
  }
}

// The device address of a page that is pinned, by us or by another; pins it when it is not.
absl::StatusOr<uintptr_t> Pin(Registry& registry, uintptr_t page)
    ABSL_EXCLUSIVE_LOCKS_REQUIRED(registry.mutex) {
  const auto known = registry.pages.find(page);
  if (known != registry.pages.end()) return known->second;
  AddHostUnmapListener(&Unpin);
  void* const host = reinterpret_cast<void*>(page);
  const cudaError_t error =
      cudaHostRegister(host, kPageBytes, cudaHostRegisterMapped | cudaHostRegisterPortable);
  if (error != cudaSuccess) return CudaStatus(error, "pinning a host page");
  void* device = nullptr;
  if (const cudaError_t mapped = cudaHostGetDevicePointer(&device, host, 0);
      mapped != cudaSuccess) {
    (void)cudaHostUnregister(host);
    return CudaStatus(mapped, "mapping a pinned host page");
  }
  registry.pages.emplace(page, reinterpret_cast<uintptr_t>(device));
  return reinterpret_cast<uintptr_t>(device);
}

}  // namespace

absl::StatusOr<void*> DevicePointerOf(const void* memory, size_t size_bytes) {
  Registry& registry = TheRegistry();
  const uintptr_t address = reinterpret_cast<uintptr_t>(memory);
  // A list's pointers lie in few allocations, and the address range of device memory never becomes host memory.
  static thread_local uintptr_t device_begin = 0, device_end = 0;
  if (address >= device_begin && address + size_bytes <= device_end)
    return const_cast<void*>(memory);
  const uintptr_t page = address - address % kPageBytes;
  const uintptr_t last =
      (address + (size_bytes > 0 ? size_bytes - 1 : 0)) / kPageBytes * kPageBytes;
  absl::MutexLock lock(&registry.mutex);
  if (registry.pages.find(page) == registry.pages.end()) {
    cudaPointerAttributes about;
    if (const cudaError_t error = cudaPointerGetAttributes(&about, memory); error != cudaSuccess) {
      return CudaStatus(error, "asking what a pointer is");
    }
    if (about.type == cudaMemoryTypeDevice) {
      const absl::StatusOr<const Driver*> driver = LoadDriver();
      CUdeviceptr begin = 0;
      size_t bytes = 0;
      if (driver.ok() && (*driver)->address_range(&begin, &bytes, address) == CUDA_SUCCESS) {
        device_begin = static_cast<uintptr_t>(begin);
        device_end = device_begin + bytes;
      }
    }
    if (about.type != cudaMemoryTypeUnregistered) return about.devicePointer;
  }
  absl::StatusOr<uintptr_t> device = Pin(registry, page);
  if (!device.ok()) return device.status();
  for (uintptr_t next = page + kPageBytes; next <= last; next += kPageBytes) {
    absl::StatusOr<uintptr_t> mapped = Pin(registry, next);
    if (!mapped.ok()) return mapped.status();
    if (*mapped - *device != next - page) {
      return absl::InvalidArgumentError(
          "host memory over a page boundary is not contiguous on the device");
    }
  }
  return reinterpret_cast<void*>(*device + (address - page));
}

}  // namespace muond
