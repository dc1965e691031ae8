// CudaStream: a Stream that code under */cuda can enqueue CUDA calls on.
//
// Two ways to be one. An owned stream belongs to a device's ordered host thread: everything enqueued, from whatever
// thread, is issued there, so the caller never blocks on a full hardware queue. A borrowed stream is somebody
// else's cudaStream_t (a framework's current stream): calls are issued at once on the caller's thread, so that work
// which the framework enqueues next comes after them. Borrowed streams may be in capture.
// Threads: one at a time, as every Stream.
// Errors:  the first failure is kept; nothing is issued after it. A sticky CUDA error poisons the whole device.
// Lifetime: destroying an owned stream waits for its work, except behind a cell that has not come. Cells that it waits
// on must stay mapped until then.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "kernels/runtime/backend.h"

namespace muond {

class CudaDevice;

class CudaStream : public Stream {
 public:
  // Issues CUDA calls on the stream that it is given and returns the first error. Runs on the device's host thread
  // (owned) or before Enqueue returns (borrowed), with the device current.
  using Call = absl::AnyInvocable<cudaError_t(cudaStream_t)>;
  // `what` names the work in errors and must be a string literal.
  virtual void Enqueue(const char* what, Call call) = 0;
  // True for a borrowed stream: Enqueue has called `call` when it returns.
  virtual bool issues_at_once() const = 0;
  // Records a failure found on the host, so that it is sticky as any other.
  virtual void Fail(absl::Status status) = 0;
  // The handle: identifies the stream. Enqueue is the only way to issue on it.
  virtual cudaStream_t handle() const = 0;
};

// `device` must outlive the stream.
absl::StatusOr<std::unique_ptr<Stream>> CreateOwnedStream(CudaDevice& device);
std::unique_ptr<Stream> BorrowStream(CudaDevice& device, cudaStream_t stream);

}  // namespace muond
