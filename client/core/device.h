// Device: what a rank on a GPU needs of it: slabs mapped into its memory, and work put on the framework's own streams. It runs on
// the primary context, which the framework in this process shares, and leaves the calling thread's current device as it was.
// Threads: one at a time, as a Client.   Errors: UNAVAILABLE where this build has no CUDA, or no driver is there.
// Lifetime: mappings keep it alive.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/core/mapping.h"
#include "kernels/runtime/cell.h"

namespace muond {

// The framework's cudaStream_t as a number; 0 is the default stream.
using StreamHandle = uint64_t;

class ClientDevice {
 public:
  virtual ~ClientDevice() = default;
  // Maps a slab's memory; the descriptor is borrowed. The mapping must go only when no stream works on it.
  virtual absl::StatusOr<std::shared_ptr<Mapping>> Map(int fd, uint64_t size_bytes) = 0;
  // The next three come after what `stream` holds, and return at once. Cells lie in host slabs, which stay mapped until the stream
  // has passed.
  virtual absl::Status Copy(StreamHandle stream, void* to, const void* from,
                            uint64_t size_bytes) = 0;
  virtual absl::Status WriteCell(StreamHandle stream, Cell* cell, uint64_t value) = 0;
  virtual absl::Status WaitCell(StreamHandle stream, const Cell* cell, uint64_t at_least) = 0;
  // Waits for all streams of the process on this device.
  virtual void Synchronize() = 0;
};

// The GPU of that UUID ("GPU-..."), whatever its number is under CUDA_VISIBLE_DEVICES. NOT_FOUND names those that are visible.
absl::StatusOr<std::shared_ptr<ClientDevice>> OpenClientDevice(const std::string& uuid);

}  // namespace muond
