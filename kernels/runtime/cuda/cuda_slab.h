// Slabs on CUDA: cuMemCreate memory with a POSIX descriptor. The memory lives as long as any process holds a
// descriptor or a mapping, whichever process created it. Memory is taken in multiples of the device's granularity (2 MiB),
// 16 bytes behind the slab's own included: they hold its size, which an importer checks.
// Destroying a slab unmaps it at once: the streams that use it must be done.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/runtime/backend.h"

namespace muond {

class CudaDevice;

// Zeroed. RESOURCE_EXHAUSTED with the byte counts and the label when the device is full.
absl::StatusOr<std::unique_ptr<Slab>> CreateCudaSlab(CudaDevice& device, const std::string& label,
                                                     size_t size_bytes);
// Takes ownership of `descriptor`, also on failure. The memory may lie on another GPU that `device` can reach.
absl::StatusOr<std::unique_ptr<Slab>> ImportCudaSlab(CudaDevice& device, int descriptor,
                                                     size_t size_bytes);

}  // namespace muond
