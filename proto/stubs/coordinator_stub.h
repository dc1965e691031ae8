// CoordinatorStub: the calls of a coordinator as plain functions: values in, absl::Status out.
// Threads: safe from any thread.   Errors: as in daemon_stub.h.   A timeout of zero is the options' own.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/stubs/stub_options.h"
#include "proto/types/coordinator_calls.h"

namespace muond {

class CoordinatorStub {
 public:
  // `endpoint`: one, or several with commas between, of which one leads and the others stand by: a call is made until one
  // answers, and may then have been made more than once. INVALID_ARGUMENT for an endpoint that is none. Does not connect yet.
  static absl::StatusOr<std::unique_ptr<CoordinatorStub>> Create(std::string_view endpoint,
                                                                 const StubOptions& options = {});
  ~CoordinatorStub();
  CoordinatorStub(const CoordinatorStub&) = delete;
  CoordinatorStub& operator=(const CoordinatorStub&) = delete;

  const std::string& endpoint() const;
  std::string answering() const;  // the one of them that answered last

  absl::StatusOr<RegisterReply> Register(const RegisterCall& call, absl::Duration timeout = {});
  absl::StatusOr<HeartbeatReply> Heartbeat(const HeartbeatCall& call, absl::Duration timeout = {});
  absl::StatusOr<CreateJobReply> CreateJob(const CreateJobCall& call, absl::Duration timeout = {});
  absl::StatusOr<OfferReply> OfferRanks(const OfferCall& call, absl::Duration timeout = {});
  absl::StatusOr<Plan> GetPlan(uint64_t job, uint64_t epoch,
                               absl::Duration timeout = {});  // epoch 0: the newest
  absl::Status EndJob(uint64_t job, const std::string& reason, absl::Duration timeout = {});
  absl::StatusOr<ClusterStatus> GetCluster(absl::Duration timeout = {});

 private:
  struct Impl;
  explicit CoordinatorStub(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

}  // namespace muond
