// Lane: a compute stream of one device with its workspace. Everything that one device does for any job runs here, in order.
// Threads: the StepLoop enqueues.   Lifetime: the device and its Ops outlive the lane.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/ops/ops.h"
#include "kernels/runtime/backend.h"

namespace muond {

class Lane {
 public:
  static absl::StatusOr<std::unique_ptr<Lane>> Create(Device& device, std::unique_ptr<Ops> ops);

  Device& device() { return device_; }
  Ops& ops() { return *ops_; }
  Stream& stream() { return *stream_; }
  void* workspace() { return workspace_ == nullptr ? nullptr : workspace_->data(); }
  uint64_t workspace_bytes() const { return workspace_ == nullptr ? 0 : workspace_->size_bytes(); }
  // Grows the workspace, when a job attaches; waits for the stream where it must. RESOURCE_EXHAUSTED with byte counts leaves
  // the old one.
  absl::Status Reserve(uint64_t bytes);

 private:
  Lane(Device& device, std::unique_ptr<Ops> ops, std::unique_ptr<Stream> stream)
      : device_(device), ops_(std::move(ops)), stream_(std::move(stream)) {}
  Device& device_;
  std::unique_ptr<Ops> ops_;
  std::unique_ptr<Buffer> workspace_;
  std::unique_ptr<Stream> stream_;  // last: ends before what it works on
};

}  // namespace muond
