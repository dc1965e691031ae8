// MemfdSlab: host memory that processes share by passing a descriptor.
// Pages are reserved when it is made, so that a machine without memory says so then and never in mid-step.
// The size is sealed: no holder of the descriptor can shrink it under another's mapping.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/runtime/backend.h"

namespace muond {

class MemfdSlab final : public Slab {
 public:
  // `released`, when set, runs in the destructor: the device's accounting.
  // INVALID_ARGUMENT for zero bytes; RESOURCE_EXHAUSTED with the size when the system refuses the pages.
  static absl::StatusOr<std::unique_ptr<Slab>> Create(const std::string& label, size_t size_bytes,
                                                      std::function<void()> released);
  // Takes ownership of `descriptor`, also on failure.
  static absl::StatusOr<std::unique_ptr<Slab>> Import(int descriptor, size_t size_bytes,
                                                      std::function<void()> released);
  ~MemfdSlab() override;

  void* data() const override { return data_; }
  size_t size_bytes() const override { return size_bytes_; }
  int descriptor() const override { return descriptor_; }

 private:
  MemfdSlab(void* data, size_t size_bytes, int descriptor, std::function<void()> released)
      : data_(data),
        size_bytes_(size_bytes),
        descriptor_(descriptor),
        released_(std::move(released)) {}

  void* const data_;
  const size_t size_bytes_;
  const int descriptor_;
  const std::function<void()> released_;
};

}  // namespace muond
