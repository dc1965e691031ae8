// Mapping: a slab as this process sees it. Stays until the last holder lets go: tensors of the
// framework may look into it long after the client has left the daemon.
// Threads: plain value once made.   Errors: INVALID_ARGUMENT with both sizes when the slab is
// smaller than what it was said to be.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"

namespace muond {

class Mapping {
 public:
  // Maps `size_bytes` of a shared descriptor, which is borrowed. Zero bytes give an empty mapping.
  static absl::StatusOr<std::shared_ptr<Mapping>> Shared(int fd, uint64_t size_bytes);
  // Private zeroed memory of this process.
  static absl::StatusOr<std::shared_ptr<Mapping>> Private(uint64_t size_bytes);
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  char* data() const { return data_; }  // page-aligned; null when empty
  uint64_t size_bytes() const { return size_bytes_; }

 private:
  Mapping(char* data, uint64_t size_bytes) : data_(data), size_bytes_(size_bytes) {}
  static absl::StatusOr<std::shared_ptr<Mapping>> Map(int fd, uint64_t size_bytes);  // -1: private
  char* const data_;
  const uint64_t size_bytes_;
};

}  // namespace muond
