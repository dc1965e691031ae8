// Mapping: a slab as this process sees it. Stays until the last holder lets go: tensors of the
// framework may look into it long after the client has left the daemon.
// Threads: plain value once made.   Errors: INVALID_ARGUMENT with both sizes when the slab is
// smaller than what it was said to be.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"

namespace muond {

class Mapping {
 public:
  // Maps `size_bytes` of a shared descriptor, which is borrowed. Zero bytes give an empty mapping.
  static absl::StatusOr<std::shared_ptr<Mapping>> Shared(int fd, uint64_t size_bytes);
  // Private zeroed memory of this process.
  static absl::StatusOr<std::shared_ptr<Mapping>> Private(uint64_t size_bytes);
  // Memory of a device, which `owner` keeps mapped.
  static std::shared_ptr<Mapping> Foreign(char* data, uint64_t size_bytes,
                                          std::shared_ptr<void> owner);
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  char* data() const {
    return data_;
  }  // page-aligned; null when empty; a device's address of a device's memory
  uint64_t size_bytes() const { return size_bytes_; }

 private:
  Mapping(char* data, uint64_t size_bytes, std::shared_ptr<void> owner = nullptr)
      : data_(data), size_bytes_(size_bytes), owner_(std::move(owner)) {}
  static absl::StatusOr<std::shared_ptr<Mapping>> Map(int fd, uint64_t size_bytes);  // -1: private
  char* const data_;
  const uint64_t size_bytes_;
  const std::shared_ptr<void> owner_;  // null: mapped here
};

}  // namespace muond
