// HostRegistry: pins the host pages in which cells and flip words live, once each, for every device.
// A page is pinned when it is first used and unpinned when its slab goes away (runtime/host_pages.h).
// Threads: safe from any thread.
#pragma once

#include <cstddef>

#include "absl/status/statusor.h"

namespace muond {

// The address by which device code and stream operations reach the `size_bytes` at `memory`: itself for device and
// managed memory; for host memory its pages are pinned when no one has pinned them yet. Host memory that is neither
// a host slab nor pinned by its owner must stay mapped as long as the process uses CUDA.
// INVALID_ARGUMENT for memory that cannot be pinned.
absl::StatusOr<void*> DevicePointerOf(const void* memory, size_t size_bytes);

}  // namespace muond
