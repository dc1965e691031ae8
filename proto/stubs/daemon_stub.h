// DaemonStub: the calls of a daemon as plain functions: values in, absl::Status out.
// Threads: safe from any thread.   Lifetime: independent of the values passed.
// Errors:  the daemon's own status, word for word; UNAVAILABLE and DEADLINE_EXCEEDED name the endpoint; FAILED_PRECONDITION
//          naming both versions when the protocol's major version differs.
// A timeout of zero is the options' own. Join blocks until every rank has come: give it the time that may take.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/stubs/stub_options.h"
#include "proto/types/daemon_calls.h"

namespace muond {

class DaemonStub {
 public:
  // INVALID_ARGUMENT for an endpoint that is none. Does not connect yet.
  static absl::StatusOr<std::unique_ptr<DaemonStub>> Create(std::string_view endpoint,
                                                            const StubOptions& options = {});
  ~DaemonStub();
  DaemonStub(const DaemonStub&) = delete;
  DaemonStub& operator=(const DaemonStub&) = delete;

  const std::string& endpoint() const;

  absl::StatusOr<JoinReply> Join(const JoinCall& call,
                                 absl::Duration timeout);  // version and wait_ms are ours to fill
  absl::StatusOr<AttachReply> Attach(uint64_t session, absl::Duration timeout = {});
  absl::Status Detach(uint64_t session, absl::Duration timeout = {});
  absl::StatusOr<Plan> GetPlan(uint64_t job, uint64_t epoch,
                               absl::Duration timeout = {});  // epoch 0: the newest

  // `sink` takes the chunks in order; a status that is not ok ends the call and is returned.
  absl::Status FetchState(const FetchStateCall& call,
                          absl::FunctionRef<absl::Status(const StateChunk&)> sink,
                          absl::Duration timeout = {});
  // `source` fills the next chunk, or returns false when there is none. Returns the bytes that the daemon took.
  absl::StatusOr<uint64_t> PushState(absl::FunctionRef<bool(StateChunk*)> source,
                                     absl::Duration timeout = {});

  absl::StatusOr<SnapshotReply> Snapshot(const SnapshotCall& call, absl::Duration timeout);
  // Asks the daemon to take no new jobs and waits up to `wait` for the running ones; the jobs left.
  absl::StatusOr<int32_t> Drain(absl::Duration wait);
  absl::StatusOr<DaemonStatus> GetStatus(absl::Duration timeout = {});

 private:
  struct Impl;
  explicit DaemonStub(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

}  // namespace muond
