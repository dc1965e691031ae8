// HostPages: tells whoever pinned a host mapping that it is about to go away.
//
// A page registered with a device driver stays pinned after munmap, and a later mapping at the same address would
// be taken for the old one: a stream would then write its cells into pages that nobody reads. So a host slab calls
// NotifyHostUnmap just before it unmaps, and a backend that pins pages unpins them in its listener.
// Threads: safe from any thread. A listener must not create or destroy host slabs.
#pragma once

#include <cstddef>

namespace muond {

using HostUnmapListener = void (*)(void* data, size_t size_bytes);

// Listeners stay for the life of the process; adding the same one twice counts once.
void AddHostUnmapListener(HostUnmapListener listener);
void NotifyHostUnmap(void* data, size_t size_bytes);

}  // namespace muond
