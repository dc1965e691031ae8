#include "kernels/runtime/cpu/memfd_slab.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_format.h"
#include "kernels/runtime/host_pages.h"
#include "kernels/runtime/shared_pages.h"

namespace muond {
namespace {

constexpr size_t kLongestLabel = 200;  // memfd_create allows 249 bytes
constexpr int kSizeSeals = F_SEAL_SHRINK | F_SEAL_GROW;

absl::Status SystemError(const char* call, size_t size_bytes, int error) {
  const bool no_memory =
      error == ENOMEM || error == ENOSPC || error == EFBIG || error == EMFILE || error == ENFILE;
  const std::string text =
      absl::StrFormat("%s of a slab of %d bytes: %s", call, size_bytes, std::strerror(error));
  return no_memory ? absl::ResourceExhaustedError(text) : absl::InternalError(text);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Slab>> MemfdSlab::Create(const std::string& label, size_t size_bytes,
                                                        std::function<void()> released) {
  if (size_bytes == 0) {
    return absl::InvalidArgumentError(absl::StrFormat("slab '%s' has 0 bytes", label));
  }
  const int descriptor =
      memfd_create(label.substr(0, kLongestLabel).c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (descriptor < 0) return SystemError("memfd_create", size_bytes, errno);
  auto closer = absl::MakeCleanup([descriptor] { close(descriptor); });
  if (size_bytes > static_cast<uint64_t>(INT64_MAX))
    return SystemError("ftruncate", size_bytes, EFBIG);
  const auto length = static_cast<off_t>(size_bytes);
  if (ftruncate(descriptor, length) != 0) return SystemError("ftruncate", size_bytes, errno);
  void* data = MapShared(descriptor, size_bytes);
  if (data == MAP_FAILED) return SystemError("mmap", size_bytes, errno);
  auto unmapper = absl::MakeCleanup([data, size_bytes] { munmap(data, size_bytes); });
  PreferHugePages(descriptor, data, size_bytes);
  if (fallocate(descriptor, 0, 0, length) != 0) return SystemError("fallocate", size_bytes, errno);
  if (fcntl(descriptor, F_ADD_SEALS, kSizeSeals | F_SEAL_SEAL) != 0) {
    return SystemError("F_ADD_SEALS", size_bytes, errno);
  }
  std::move(unmapper).Cancel();
  std::move(closer).Cancel();
  return std::unique_ptr<Slab>(new MemfdSlab(data, size_bytes, descriptor, std::move(released)));
}

absl::StatusOr<std::unique_ptr<Slab>> MemfdSlab::Import(int descriptor, size_t size_bytes,
                                                        std::function<void()> released) {
  auto closer = absl::MakeCleanup([descriptor] {
    if (descriptor >= 0) close(descriptor);
  });
  if (size_bytes == 0)
    return absl::InvalidArgumentError("an imported slab is said to have 0 bytes");
  struct stat about {};
  if (fstat(descriptor, &about) != 0) return SystemError("fstat", size_bytes, errno);
  if (!S_ISREG(about.st_mode) || about.st_size < 0 ||
      static_cast<uint64_t>(about.st_size) != size_bytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("an imported slab is said to have %d bytes, its descriptor has %d",
                        size_bytes, about.st_size));
  }
  const int seals = fcntl(descriptor, F_GET_SEALS);
  if (seals < 0 || (seals & kSizeSeals) != kSizeSeals) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "an imported slab of %d bytes is not sealed at its size: its other holders could shrink it",
        size_bytes));
  }
  void* data = MapShared(descriptor, size_bytes);
  if (data == MAP_FAILED) return SystemError("mmap", size_bytes, errno);
  madvise(data, size_bytes, MADV_HUGEPAGE);  // a hint: refused by kernels without it
  std::move(closer).Cancel();
  return std::unique_ptr<Slab>(new MemfdSlab(data, size_bytes, descriptor, std::move(released)));
}

MemfdSlab::~MemfdSlab() {
  NotifyHostUnmap(data_, size_bytes_);
  munmap(data_, size_bytes_);
  close(descriptor_);
  if (released_) released_();
}

absl::StatusOr<std::unique_ptr<Slab>> CreateHostSlab(const std::string& label, size_t size_bytes) {
  return MemfdSlab::Create(label, size_bytes, nullptr);
}

absl::StatusOr<std::unique_ptr<Slab>> ImportHostSlab(int descriptor, size_t size_bytes) {
  return MemfdSlab::Import(descriptor, size_bytes, nullptr);
}

}  // namespace muond
