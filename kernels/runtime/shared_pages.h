// SharedPages: mappings of shared and private memory that lie in huge pages where the system can do it.
//
// A pass over a slab of 4 KiB pages waits for page tables, most of all in a virtual machine, and touching it for the first
// time costs a fault for every page in every process. Linux puts shared memory into huge pages only where address and file
// offset agree modulo their size; and a memfd gets them, whatever the system's setting for shared memory, when it is asked to
// collapse what is there (MADV_COLLAPSE, Linux 6.1). Elsewhere these functions leave ordinary pages.
// Threads: safe from any thread.
#pragma once

#include <cstddef>

namespace muond {

inline constexpr size_t kHugePageBytes = size_t{2} << 20;

// mmap of the first `size_bytes` of a descriptor: shared, readable, writable, aligned for huge pages when it holds one.
// MAP_FAILED with errno, as mmap. munmap ends it.
void* MapShared(int descriptor, size_t size_bytes);

// Private zero pages, aligned for huge pages and a whole number of them long when `size_bytes` reaches one: a product over a
// workspace whose last pages are small spends a few percent of its time on page tables. MAP_FAILED with errno, as mmap.
void* MapPrivate(size_t size_bytes);
// Ends a mapping of MapPrivate of the same size.
void UnmapPrivate(void* data, size_t size_bytes);

// Asks for huge pages under a fresh mapping that MapShared made of `descriptor`, whose contents are zeros. A hint: some, all or
// none of it is allocated afterwards, so a caller that wants the memory reserved still calls fallocate.
void PreferHugePages(int descriptor, void* data, size_t size_bytes);

}  // namespace muond
