// UcxWorker: a UCX context and its worker, set up as a daemon needs them.
// What this project wants of UCX is set here, except where the user's environment (UCX_...) says otherwise.
// Threads: one at a time.   Errors: UCX's own text, with what was being done.
#pragma once

#include <ucp/api/ucp.h>

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace muond {

// UNAVAILABLE for what a dead or unreachable peer causes, CANCELLED, RESOURCE_EXHAUSTED, ... with UCX's text.
absl::Status FromUcs(ucs_status_t status, std::string_view what);

class UcxWorker {
 public:
  // `transports` as in UCX_TLS; empty: what the environment says, else everything but shared memory and cuda_ipc
  // (memory of one node moves by slabs, and a write of another process could not be fenced).
  static absl::StatusOr<std::unique_ptr<UcxWorker>> Create(const std::string& transports);
  ~UcxWorker();
  UcxWorker(const UcxWorker&) = delete;
  UcxWorker& operator=(const UcxWorker&) = delete;

  ucp_context_h context() const { return context_; }
  ucp_worker_h worker() const { return worker_; }
  int event_descriptor() const { return event_descriptor_; }
  // Whether memory of a GPU can be given to UCX: it says so itself, and a transfer there and back was right.
  bool device_memory() const { return device_memory_; }
  // "ucx 1.13.1, host memory (UCX is built without CUDA)"
  const std::string& description() const { return description_; }

 private:
  UcxWorker() = default;
  void ProbeDeviceMemory();
  ucp_context_h context_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  int event_descriptor_ = -1;
  bool device_memory_ = false;
  std::string description_;
};

}  // namespace muond
