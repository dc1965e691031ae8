#include "kernels/runtime/cuda/host_registry.h"

#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "kernels/runtime/cuda/cuda_error.h"
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

}  // namespace

absl::StatusOr<void*> DevicePointerOf(const void* host) {
  Registry& registry = TheRegistry();
  const uintptr_t address = reinterpret_cast<uintptr_t>(host);
  const uintptr_t page = address - address % kPageBytes;
  absl::MutexLock lock(&registry.mutex);
  auto known = registry.pages.find(page);
  if (known == registry.pages.end()) {
    AddHostUnmapListener(&Unpin);
    const cudaError_t error =
        cudaHostRegister(reinterpret_cast<void*>(page), kPageBytes,
                         cudaHostRegisterMapped | cudaHostRegisterPortable);
    const bool pinned_by_another = error == cudaErrorHostMemoryAlreadyRegistered;
    if (pinned_by_another) {
      (void)cudaGetLastError();
    } else if (error != cudaSuccess) {
      return CudaStatus(error, "pinning a host page");
    }
    void* device = nullptr;
    void* const asked = reinterpret_cast<void*>(pinned_by_another ? address : page);
    if (const cudaError_t mapped = cudaHostGetDevicePointer(&device, asked, 0);
        mapped != cudaSuccess) {
      return CudaStatus(mapped, "mapping a pinned host page");
    }
    if (pinned_by_another) return device;
    known = registry.pages.emplace(page, reinterpret_cast<uintptr_t>(device)).first;
  }
  return reinterpret_cast<void*>(known->second + (address - page));
}

}  // namespace muond
