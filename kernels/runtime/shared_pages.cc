#include "kernels/runtime/shared_pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

namespace muond {
namespace {

#ifndef MADV_COLLAPSE
constexpr int MADV_COLLAPSE = 25;  // newer than some C libraries' headers
#endif

constexpr int kAccess = PROT_READ | PROT_WRITE;

size_t RoundUp(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

size_t PrivateLength(size_t size_bytes) {
  const bool huge = size_bytes >= kHugePageBytes && size_bytes <= SIZE_MAX - 2 * kHugePageBytes;
  return huge ? RoundUp(size_bytes, kHugePageBytes) : size_bytes;
}

// mmap with a start that is aligned for huge pages when `size_bytes` holds one.
void* MapAligned(int descriptor, size_t size_bytes, int flags) {
  if (size_bytes < kHugePageBytes || size_bytes > SIZE_MAX - 2 * kHugePageBytes) {
    return mmap(nullptr, size_bytes, kAccess, flags, descriptor, 0);
  }
  // A stretch of addresses in which an aligned start can be found; what is left of it is given back.
  const size_t pages = RoundUp(size_bytes, static_cast<size_t>(sysconf(_SC_PAGESIZE)));
  void* found = mmap(nullptr, pages + kHugePageBytes, PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (found == MAP_FAILED) return mmap(nullptr, size_bytes, kAccess, flags, descriptor, 0);
  char* const room = static_cast<char*>(found);
  const size_t before = RoundUp(reinterpret_cast<uintptr_t>(room), kHugePageBytes) -
                        reinterpret_cast<uintptr_t>(room);
  void* const data = mmap(room + before, size_bytes, kAccess, flags | MAP_FIXED, descriptor, 0);
  if (data == MAP_FAILED) {
    const int error = errno;
    munmap(room, pages + kHugePageBytes);
    errno = error;
    return MAP_FAILED;
  }
  if (before > 0) munmap(room, before);
  if (before < kHugePageBytes) munmap(room + before + pages, kHugePageBytes - before);
  return data;
}

}  // namespace

void* MapShared(int descriptor, size_t size_bytes) {
  return MapAligned(descriptor, size_bytes, MAP_SHARED);
}

void* MapPrivate(size_t size_bytes) {
  const size_t length = PrivateLength(size_bytes);
  void* const data = MapAligned(-1, length, MAP_PRIVATE | MAP_ANONYMOUS);
  if (data != MAP_FAILED) madvise(data, length, MADV_HUGEPAGE);  // refused by kernels without it
  return data;
}

void UnmapPrivate(void* data, size_t size_bytes) { munmap(data, PrivateLength(size_bytes)); }

void PreferHugePages(int descriptor, void* data, size_t size_bytes) {
  madvise(data, size_bytes, MADV_HUGEPAGE);
  const size_t whole = size_bytes / kHugePageBytes * kHugePageBytes;
  // Extents without any page are not collapsed: each gets its first one. The rest of it then comes zeroed in one piece,
  // which takes a tenth of the time of 512 small pages.
  for (size_t at = 0; at < whole; at += kHugePageBytes) {
    if (pwrite(descriptor, "", 1, static_cast<off_t>(at)) != 1) return;
  }
  if (whole > 0) madvise(data, whole, MADV_COLLAPSE);
}

}  // namespace muond
