// HostRegistry: pins the host pages in which cells and flip words live, once each, for every device.
// A page is pinned when it is first used and unpinned when its slab goes away (runtime/host_pages.h).
// Threads: safe from any thread.
#pragma once

#include "absl/status/statusor.h"

namespace muond {

// The address by which device code and stream operations reach `host`. The 4 KiB page around it is pinned when no
// one has pinned it yet. INVALID_ARGUMENT for addresses that cannot be pinned.
absl::StatusOr<void*> DevicePointerOf(const void* host);

}  // namespace muond
