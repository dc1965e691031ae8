#include "client/core/mapping.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>

#include "absl/strings/str_format.h"
#include "kernels/runtime/host_pages.h"
#include "kernels/runtime/shared_pages.h"

namespace muond {

absl::StatusOr<std::shared_ptr<Mapping>> Mapping::Map(int fd, uint64_t size_bytes) {
  if (size_bytes == 0) return std::shared_ptr<Mapping>(new Mapping(nullptr, 0));
  void* data = fd >= 0 ? MapShared(fd, size_bytes)
                       : ::mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) {
    return absl::ErrnoToStatus(errno, absl::StrFormat("mapping %d bytes", size_bytes));
  }
  ::madvise(data, size_bytes, MADV_HUGEPAGE);  // a hint: refused by kernels without it
  return std::shared_ptr<Mapping>(new Mapping(static_cast<char*>(data), size_bytes));
}

absl::StatusOr<std::shared_ptr<Mapping>> Mapping::Shared(int fd, uint64_t size_bytes) {
  struct stat info = {};
  if (::fstat(fd, &info) != 0) return absl::ErrnoToStatus(errno, "looking at a slab's size");
  if (static_cast<uint64_t>(info.st_size) < size_bytes) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "a slab of %d bytes was announced, but its descriptor has %d", size_bytes, info.st_size));
  }
  return Map(fd, size_bytes);
}

absl::StatusOr<std::shared_ptr<Mapping>> Mapping::Private(uint64_t size_bytes) {
  return Map(-1, size_bytes);
}

std::shared_ptr<Mapping> Mapping::Foreign(char* data, uint64_t size_bytes,
                                          std::shared_ptr<void> owner) {
  return std::shared_ptr<Mapping>(new Mapping(data, size_bytes, std::move(owner)));
}

Mapping::~Mapping() {
  if (data_ == nullptr || owner_ != nullptr) return;
  NotifyHostUnmap(data_, size_bytes_);
  ::munmap(data_, size_bytes_);
}

}  // namespace muond
