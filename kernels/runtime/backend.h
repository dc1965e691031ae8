// Backend, Device, Stream, Slab: what the CPU and CUDA halves of kernels/runtime both provide.
//
// A device is a memory space with ordered queues of work (streams). Work is enqueued and runs later,
// in order; nothing here blocks the caller except the calls that say so. On the CPU backend a stream
// is one host thread; on CUDA it is a CUDA stream fed by the device's one ordered host thread.
// Threads: a Stream may be used by one thread at a time; Device is safe from any thread.
// Errors:  enqueueing cannot fail for operating reasons; a failure of enqueued work is sticky on the
//          stream and is returned by Synchronize() and health().
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/runtime/cell.h"

namespace muond {

enum class DeviceKind : uint8_t { kCpu = 1, kCuda = 2 };

struct DeviceInfo {
  DeviceKind kind = DeviceKind::kCpu;
  int ordinal = 0;            // position in Backend::devices()
  std::string uuid;           // stable across processes: "cpu-0", "GPU-…"
  std::string name;           // "AMD EPYC", "NVIDIA H200"
  std::string architecture;   // "cpu-avx2", "sm_90a": part of what fixes the bits of a result
  uint64_t memory_bytes = 0;  // what slabs and buffers may take in all
};

// Memory that several processes map. The descriptor keeps it alive: see server/keeper.
class Slab {
 public:
  virtual ~Slab() = default;
  virtual void* data() const = 0;  // this process's mapping; valid while the Slab lives
  virtual size_t size_bytes() const = 0;
  virtual int descriptor()
      const = 0;  // borrowed; -1 for an imported CUDA slab (it cannot be exported again)
};

// Private memory of a device: workspaces.
class Buffer {
 public:
  virtual ~Buffer() = default;
  virtual void* data() const = 0;
  virtual size_t size_bytes() const = 0;
};

// Destroying a stream finishes what can finish; work behind a wait that is not satisfied by then is dropped.
class Stream {
 public:
  virtual ~Stream() = default;
  // Runs `work` on a host thread after everything enqueued before. It must not block.
  virtual void Host(absl::AnyInvocable<void()> work) = 0;
  virtual void WaitCell(const Cell* cell, uint64_t at_least) = 0;
  virtual void WriteCell(
      Cell* cell, uint64_t value) = 0;  // release: earlier writes of the stream are visible first
  virtual void Copy(void* destination, const void* source, size_t size_bytes) = 0;
  virtual void Zero(void* destination, size_t size_bytes) = 0;
  // Blocks the caller until all enqueued work is done; the first failure since Create, if any.
  virtual absl::Status Synchronize() = 0;
  // The sticky failure, without waiting.
  virtual absl::Status health() const = 0;
};

class Device {
 public:
  virtual ~Device() = default;
  virtual const DeviceInfo& info() const = 0;
  virtual absl::StatusOr<std::unique_ptr<Stream>> CreateStream() = 0;
  // RESOURCE_EXHAUSTED with both byte counts when it does not fit. Contents are zero.
  virtual absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t size_bytes) = 0;
  virtual absl::StatusOr<std::unique_ptr<Slab>> CreateSlab(const std::string& label,
                                                           size_t size_bytes) = 0;
  // Takes ownership of `descriptor`, also on failure. INVALID_ARGUMENT with both byte counts when the descriptor's
  // size is not size_bytes, or when its other holders could still change that size.
  virtual absl::StatusOr<std::unique_ptr<Slab>> ImportSlab(int descriptor, size_t size_bytes) = 0;
  // memory_bytes less what this process's buffers and slabs of this device take (imported slabs too, on a CPU).
  virtual uint64_t free_bytes() const = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual const std::vector<std::unique_ptr<Device>>& devices() const = 0;
};

struct CpuBackendOptions {
  int devices = 1;                 // that many independent CPU devices, each with its own streams
  uint64_t memory_bytes_each = 0;  // 0: the machine's memory divided by `devices`
  // How long a stream's thread looks for more work before it sleeps, at most: see spin_window.h. Zero: it sleeps at once.
  std::chrono::nanoseconds spin{0};
};
absl::StatusOr<std::unique_ptr<Backend>> CreateCpuBackend(const CpuBackendOptions& options);

// UNAVAILABLE with the reason where this build has no CUDA or the machine has no usable device.
absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend();

// Host pages that processes share whatever the backend: cells, sheets, journals (memfd).
absl::StatusOr<std::unique_ptr<Slab>> CreateHostSlab(const std::string& label, size_t size_bytes);
absl::StatusOr<std::unique_ptr<Slab>> ImportHostSlab(int descriptor, size_t size_bytes);

}  // namespace muond
